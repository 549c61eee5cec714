/* Copies the bytes of one direction of a pair. Moves bulk data through a pipe with splice(2), without
 * copying the data into the memory of this process. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "pair.h"

#define BULK_READ 65536
#define BULK_AFTER 2     /* after this number of consecutive reads of BULK_READ or more bytes, a direction uses a pipe */
#define NO_PIPE_FOR 1024 /* if no pipe is available: number of bulk reads until the next attempt to use a pipe */

static enum close_reason reset_of(const struct side *s)
{
    return s == &s->pair->client ? CLOSE_CLIENT_RESET : CLOSE_BACKEND_RESET;
}

/* Drop the bytes that wait for the other socket. */
void side_drop(struct side *s)
{
    chunks_free(&s->held);
    pipe_release(s->pair->engine, &s->pipe);
}

/* Stop writing to a socket that has failed, or whose remote end has closed the connection.
 *
 * If the remote end has reset the connection before the end of its stream, reset both sockets. Otherwise, drop the data for
 * the remote end, but still forward the data from the remote end.
 *
 * Args: error: the errno of the failed system call; 0 to read SO_ERROR instead. The kernel reports each error only once:
 *   after a failed system call, SO_ERROR no longer contains the error.
 */
static void stop_writing_to(struct side *s, int error)
{
    socklen_t size = sizeof error;

    if (!s->eof) {
        if (!error)
            getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if ((error && error != EPIPE) || fin_missing(s)) {
            pair_abort(s->pair, reset_of(s));
            return;
        }
    }
    side_drop(s->other);
    s->other->discarding = s->other->shut = true;
    if (s == &s->pair->client)
        s->pair->reason = CLOSE_CLIENT_RESET;
}

static void watch_liveness(struct side *s)
{
    liveness_watch(s->pair->engine, &s->liveness, s->is_unix);
}

/* Write as many of the waiting bytes as the other socket accepts. */
static void drain(struct side *s)
{
    watch_liveness(s->other);
    if (s->held.size && chunks_send(&s->held, s->other->fd) < 0) {
        stop_writing_to(s->other, errno);
        return;
    }
    while (s->pipe.size) {
        ssize_t count = splice(s->pipe.read_end, NULL, s->other->fd, NULL, s->pipe.size,
                               SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

        if (count > 0) {
            s->pipe.size -= (size_t)count;
        } else if (count < 0 && errno == EAGAIN) {
            return;
        } else if (count == 0 || errno != EINTR) {
            stop_writing_to(s->other, count ? errno : EPIPE);
            return;
        }
    }
    pipe_release(s->pair->engine, &s->pipe);
}

/* Forward the end of the stream to the other socket. No received bytes wait for the other socket at this point, because
 * the native engine does not read while bytes wait. */
static void on_eof(struct side *s)
{
    if (fin_missing(s)) {
        pair_abort(s->pair, reset_of(s));
        return;
    }
    s->eof = true;
    if (s->shut)
        return;
    s->shut = true;
    /* If both directions have ended, `pair_update` closes the other socket, so shutdown(2) is not necessary. But if
     * `other->discarding`, Python closes the other socket only later, so shutdown(2) is necessary. */
    if (!(s->other->eof && s->other->shut) || s->other->discarding) {
        watch_liveness(s->other);
        shutdown(s->other->fd, SHUT_WR); /* if shutdown(2) fails, the next call on the socket reports the failure */
    }
}

static void count_read(struct side *s, uint64_t count, uint64_t now)
{
    struct pair *p = s->pair;
    bool is_request = s == &p->client;

    s->read += count;
    if (s->discarding)
        return;
    atomic_fetch_add_explicit(is_request ? &p->gauge->to_backend : &p->gauge->from_backend, count,
                              memory_order_relaxed);
    if (is_request) {
        p->request_time = now;
    } else if (p->request_time) {
        atomic_fetch_add_explicit(&p->gauge->responses, 1, memory_order_relaxed);
        if (p->measure)
            histogram_add(p->engine, p->histogram, now - p->request_time);
        p->request_time = 0;
    }
    gauge_set(&p->gauge->request_time, p->request_time);
}

/* Handle a read that returned no bytes. */
static void on_empty_read(struct side *s, ssize_t result)
{
    if (result == 0)
        on_eof(s);
    else if (errno != EAGAIN && errno != EINTR)
        pair_abort(s->pair, reset_of(s));
}

/* Send bytes from the shared buffer to the other socket. Store the rest in `held`. */
static void pass_on(struct side *s, const uint8_t *data, size_t size)
{
    ssize_t sent;

    watch_liveness(s->other);
    do
        sent = send(s->other->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent < 0 && errno != EAGAIN) {
        stop_writing_to(s->other, errno);
        return;
    }
    if (sent < 0)
        sent = 0;
    if (!chunks_append(&s->held, data + sent, size - (size_t)sent))
        pair_abort(s->pair, CLOSE_ABORTED);
}

/* Read once from the socket, and write as many bytes as the other socket accepts. */
static void copy(struct side *s, uint64_t now)
{
    struct pair *p = s->pair;
    struct engine *e = p->engine;
    size_t limit = e->share < PAIR_BUFFER ? e->share : PAIR_BUFFER;
    ssize_t count = recv(s->fd, e->buffer, limit, MSG_DONTWAIT);

    if (count <= 0) {
        on_empty_read(s, count);
        return;
    }
    count_read(s, (uint64_t)count, now);
    if (s->discarding)
        return;
    if (count < BULK_READ)
        s->bulk_reads = s->bulk_reads < 0 ? s->bulk_reads : 0;
    else
        s->bulk_reads++;
    if (p->observer.tap)
        report_tap(e, p->token, &p->observer, s == &p->backend, now, e->buffer, (size_t)count);
    pass_on(s, e->buffer, (size_t)count);
}

/* Move bytes to the other socket through a pipe, with splice(2). Return false if no pipe can be used. */
static bool move(struct side *s, uint64_t now)
{
    struct engine *e = s->pair->engine;
    ssize_t count;
    int error;

    if (!fin_track(s->other) || !pipe_take(e, &s->pipe)) {
        s->bulk_reads = -NO_PIPE_FOR;
        return false;
    }
    count = splice(s->fd, NULL, s->pipe.write_end, NULL, e->share, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    error = errno;
    if (count <= 0) {
        pipe_release(e, &s->pipe);
        e->cannot_splice = count < 0 && (error == ENOSYS || error == EINVAL || error == EPERM);
        /* splice(2) does not pass the mark of urgent data: it then returns 0 or EAGAIN, although more bytes have arrived.
         * Only recv(2) returns these bytes, or shows that there are none. */
        if (e->cannot_splice || count == 0 || error == EAGAIN) {
            s->bulk_reads = 0;
            return false;
        }
        errno = error;
        on_empty_read(s, count);
        return true;
    }
    count_read(s, (uint64_t)count, now);
    s->pipe.size = (size_t)count;
    if (count < BULK_READ)
        s->bulk_reads = 0;
    drain(s);
    return true;
}

static void pump(struct side *s, uint64_t now)
{
    bool bulk = s->bulk_reads >= BULK_AFTER && !s->pair->observer.tap && !s->discarding &&
                !s->pair->engine->cannot_splice;

    if (!bulk || !move(s, now))
        copy(s, now);
}

void side_event(struct side *s, uint32_t events)
{
    struct pair *p = s->pair;
    uint64_t now = clock_ns();
    uint32_t mask = s->mask;

    if (p->ended)
        return;
    gauge_set(&p->gauge->last_active, now);
    /* Without EPOLLIN and EPOLLOUT in `mask`, epoll reports only hang-ups and errors. EPOLLET in `mask` means that the native
     * engine no longer writes to this socket. A hang-up without EPOLLERR is then normal. */
    if (!(mask & (EPOLLIN | EPOLLOUT))) {
        if (events & EPOLLERR || !(mask & EPOLLET))
            stop_writing_to(s, 0);
    } else if (events & (uint32_t)(EPOLLOUT | EPOLLHUP | EPOLLERR) && side_waits(s->other)) {
        drain(s->other);
    }
    if (events & ~(uint32_t)EPOLLOUT && mask & EPOLLIN && !p->ended)
        pump(s, now);
    if (!p->ended)
        pair_update(p);
}
