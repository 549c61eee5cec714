#include "chunks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define MAX_CHUNK ((size_t)64 * 1024)
#define MAX_IOVECS 16

struct chunk {
    struct chunk *next;
    size_t size, capacity;
    uint8_t data[];
};

/* Return a chunk with room for `size` more bytes. Use the last chunk, and enlarge it if necessary. Return a new chunk
 * if the queue is empty, or if the enlarged chunk would contain more than MAX_CHUNK bytes. */
static struct chunk *make_room(struct chunks *c, size_t size)
{
    struct chunk *last = c->last ? *c->last : NULL, *grown = last, *made;
    size_t needed = (last ? last->size : 0) + size;

    if (last && needed <= last->capacity)
        return last;
    if (last && needed > MAX_CHUNK) {
        grown = NULL;
        needed = size;
    }
    made = realloc(grown, sizeof *made + needed + needed / 8);
    if (!made)
        return NULL;
    made->capacity = needed + needed / 8;
    if (!grown) {
        made->next = NULL;
        made->size = 0;
        c->last = last ? &last->next : &c->first;
    }
    *c->last = made;
    return made;
}

bool chunks_append(struct chunks *c, const uint8_t *data, size_t size)
{
    struct chunk *last = size ? make_room(c, size) : NULL;

    if (!last)
        return size == 0;
    memcpy(last->data + last->size, data, size);
    last->size += size;
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
        if (c->last == &done->next)
            c->last = &c->first;
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

size_t chunks_memory(const struct chunks *c)
{
    size_t total = 0;

    for (const struct chunk *each = c->first ? c->first->next : NULL; each; each = each->next)
        total += sizeof *each + each->capacity;
    return total;
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
