/* Reads and writes integers in network byte order, and defines a growing array of bytes. */
#ifndef GATEWAY_DATAPLANE_BYTES_H
#define GATEWAY_DATAPLANE_BYTES_H

#include <arpa/inet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline uint32_t get_u32(const uint8_t *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof value);
    return ntohl(value);
}

static inline void put_u32(uint8_t *at, uint32_t value)
{
    value = htonl(value);
    memcpy(at, &value, sizeof value);
}

struct bytes {
    uint8_t *data;
    size_t size;
    size_t capacity;
};

/* Append `size` uninitialized bytes, and return their address; NULL if memory is exhausted. */
static inline uint8_t *bytes_extend(struct bytes *b, size_t size)
{
    if (b->capacity - b->size < size) {
        size_t capacity = (b->size + size) * 2;
        uint8_t *data = realloc(b->data, capacity);

        if (!data)
            return NULL;
        b->data = data;
        b->capacity = capacity;
    }
    b->size += size;
    return b->data + b->size - size;
}

static inline void bytes_free(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){0};
}

#endif
