/* A queue of bytes for a socket. Short pieces share chunks, so the queue uses little more memory than its bytes. */
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
    struct chunk **last; /* the pointer to the last chunk, in this struct or in the chunk before; NULL if empty */
    size_t sent; /* bytes of the first chunk that were sent */
    size_t size; /* queued bytes */
};

/* Append a copy. Return false if memory is exhausted. */
bool chunks_append(struct chunks *, const uint8_t *data, size_t size);

/* Send as much as the socket accepts. Return the number of bytes, or -1 if the socket failed (errno). */
ssize_t chunks_send(struct chunks *, int fd);

/* Return the memory of the queue, in bytes. Excludes the first chunk, of which a part can be sent already. */
size_t chunks_memory(const struct chunks *);

void chunks_free(struct chunks *);

#endif
