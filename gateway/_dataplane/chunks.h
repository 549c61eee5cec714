/* Declares a queue of bytes to send on a socket. Short pieces of data share one chunk of memory, so that the overhead is
 * small. */
#ifndef GATEWAY_DATAPLANE_CHUNKS_H
#define GATEWAY_DATAPLANE_CHUNKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct chunk;

/* A zeroed struct is an empty queue. */
struct chunks {
    struct chunk *first;
    struct chunk **last; /* address of the pointer to the last chunk; NULL if the queue is empty */
    size_t sent; /* number of bytes of the first chunk that were sent */
    size_t size; /* number of queued bytes */
};

/* Append a copy of the data. Return false if memory is exhausted. */
bool chunks_append(struct chunks *, const uint8_t *data, size_t size);

/* Send as much as the socket accepts. Return the number of sent bytes; -1, with errno, if the socket failed. */
ssize_t chunks_send(struct chunks *, int fd);

/* Return the memory of all chunks except the first, in bytes. The first chunk does not count, because a part of it
 * might already be sent. */
size_t chunks_memory(const struct chunks *);

void chunks_free(struct chunks *);

#endif
