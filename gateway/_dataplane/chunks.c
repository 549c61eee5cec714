#include "chunks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define CHUNK_SIZE (64u * 1024u)
#define MAX_IOVECS 16

struct chunk {
    struct chunk *next;
    size_t size, capacity;
    uint8_t data[];
};

/* Make room for `size` bytes in the last chunk, or in a new one. */
static bool make_room(struct chunks *c, size_t size)
{
    size_t capacity = size > CHUNK_SIZE ? size : CHUNK_SIZE;
    struct chunk *made;

    if (c->last && c->last->size + size <= c->last->capacity)
        return true;
    made = malloc(sizeof *made + capacity);
    if (!made)
        return false;
    *made = (struct chunk){.capacity = capacity};
    if (c->last)
        c->last->next = made;
    else
        c->first = made;
    c->last = made;
    return true;
}

bool chunks_append(struct chunks *c, const uint8_t *data, size_t size)
{
    if (!size)
        return true;
    if (!make_room(c, size))
        return false;
    memcpy(c->last->data + c->last->size, data, size);
    c->last->size += size;
    c->size += size;
    return true;
}

static void drop(struct chunks *c, size_t count)
{
    c->size -= count;
    c->sent += count;
    while (c->first && c->sent >= c->first->size) {
        struct chunk *done = c->first;

        c->sent -= done->size;
        c->first = done->next;
        free(done);
    }
    if (!c->first)
        c->last = NULL;
}

ssize_t chunks_send(struct chunks *c, int fd)
{
    size_t total = 0;

    while (c->size) {
        struct iovec parts[MAX_IOVECS];
        struct msghdr message = {.msg_iov = parts};
        size_t skipped = c->sent, offered = 0;

        for (struct chunk *each = c->first; each && message.msg_iovlen < MAX_IOVECS; each = each->next) {
            parts[message.msg_iovlen++] =
                (struct iovec){.iov_base = each->data + skipped, .iov_len = each->size - skipped};
            offered += each->size - skipped;
            skipped = 0;
        }
        ssize_t count = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (count < 0) {
            if (errno == EINTR)
                continue;
            return errno == EAGAIN ? (ssize_t)total : -1;
        }
        total += (size_t)count;
        drop(c, (size_t)count);
        if ((size_t)count < offered)
            break;
    }
    return (ssize_t)total;
}

void chunks_free(struct chunks *c)
{
    while (c->first) {
        struct chunk *next = c->first->next;

        free(c->first);
        c->first = next;
    }
    *c = (struct chunks){0};
}
