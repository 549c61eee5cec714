/* Handles the socket of a channel's client: reads data directly into the send buffer of the SSH connection (the batch), and
 * encrypts the data there. */
#include <errno.h>
#include <sys/socket.h>

#include "engine.h"

#define HANGUP ((uint32_t)(EPOLLHUP | EPOLLERR))

static void set_mask(struct channel *c, uint32_t mask)
{
    struct epoll_event event = {.events = mask, .data.ptr = &c->source};

    /* `epoll_ctl` fails only if the kernel has no memory left. The client is then reset. */
    int operation = !mask ? EPOLL_CTL_DEL : c->mask ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

    if (epoll_ctl(c->engine->epoll, operation, c->fd, &event) < 0) {
        c->mask = 0;
        ending_abort(c, CLOSE_ABORTED);
        return;
    }
    c->mask = mask;
}

/* Set the events that epoll reports for the client's socket.
 *
 * If the channel waits neither to read from the socket nor to write to the socket:
 * - A TCP socket stays registered, so that epoll reports errors. If the native engine no longer writes to the socket,
 *   the socket is edge-triggered, so that epoll reports a hang-up only once.
 * - A unix socket is not registered, because epoll would report a hang-up when the client closes the connection, even
 *   if the socket still contains unread data.
 */
void client_update_mask(struct channel *c)
{
    bool accepts = c->connection && c->peer_window && !c->sent_close && !c->queued;
    uint32_t mask;

    if (!c->attached || c->ended)
        return;
    mask = (!c->client_eof && !c->channel_unwritable && accepts ? EPOLLIN : 0) | (c->held.size ? EPOLLOUT : 0);
    if (!mask && !c->is_unix)
        mask = HANGUP | (c->eof_delivered || c->client_broken ? (uint32_t)EPOLLET : 0);
    if (mask != c->mask)
        set_mask(c, mask);
}

void client_unregister(struct channel *c)
{
    if (c->mask)
        set_mask(c, 0);
    c->liveness.watched = false;
}

/* Connect a client to an open channel. The native engine owns the client's descriptor from now on. */
void client_attach(struct channel *c, int fd, int histogram, int64_t flags)
{
    if (c->attached || c->ended || !histogram_ensure(c->engine, (uint32_t)histogram)) {
        reset_fd(fd, (flags & ATTACH_UNIX) != 0);
        ending_abort(c, CLOSE_ABORTED);
        return;
    }
    c->attached = true;
    c->fd = fd;
    c->histogram = histogram;
    c->measure = flags & ATTACH_MEASURE;
    c->is_unix = flags & ATTACH_UNIX;
    if (c->link_lost && !c->backend_eof) {
        ending_finish(c, CLOSE_LINK_LOST);
        return;
    }
    if (c->held.size)
        client_flush(c);
    ending_propagate(c);
}

static void on_eof(struct channel *c)
{
    if (c->client_was_reset) {
        ending_abort(c, CLOSE_CLIENT_RESET);
        return;
    }
    c->client_eof = true;
    send_short(c->connection, MSG_CHANNEL_EOF, c->peer, NULL);
    if (c->client_broken) {
        channel_send_close(c);
        ending_finish(c, CLOSE_CLIENT_RESET);
    } else {
        ending_propagate(c);
    }
}

static void on_reset(struct channel *c)
{
    c->client_broken = c->client_was_reset = true;
    ending_abort(c, CLOSE_CLIENT_RESET);
}

/* Encrypt and queue `count` bytes from the client, which are already at their final position in the batch. */
static void send_read(struct channel *c, uint8_t *batch, size_t count, uint32_t limit, uint64_t now)
{
    struct connection *conn = c->connection;
    size_t stride = full_packet_size(conn);

    atomic_fetch_add_explicit(&c->gauge->to_backend, count, memory_order_relaxed);
    gauge_set(&c->gauge->last_active, now);
    gauge_set(&c->gauge->request_time, now);
    c->request_time = now;
    c->peer_window -= count;
    if (!c->peer_window)
        client_update_mask(c);
    if (c->ended)
        return;
    c->bulk = count >= limit && limit == MAX_SEND_PACKET; /* after a full packet, the next read may fill several packets */
    for (uint8_t *packet = batch; count > 0; packet += stride) {
        uint32_t size = count < MAX_SEND_PACKET ? (uint32_t)count : MAX_SEND_PACKET;

        if (c->observer.tap)
            report_tap(c->engine, c->token, &c->observer, false, now, packet + DATA_HEADER, size);
        send_data(conn, c->peer, size);
        count -= size;
    }
}

/* Read from the client once, and send the data on the channel. If the SSH connection is busy, queue the channel instead. */
void client_read(struct channel *c)
{
    struct connection *conn = c->connection;
    uint32_t limit, slots;
    uint8_t *batch = NULL;
    struct iovec parts[PACKETS_PER_TURN];
    struct msghdr message = {.msg_iov = parts};
    ssize_t count;

    if (!c->attached || c->ended || !conn || c->sent_close || c->channel_unwritable || c->client_eof || !c->peer_window) {
        client_update_mask(c);
        return;
    }
    limit = c->peer_window < c->peer_max_packet ? (uint32_t)c->peer_window : c->peer_max_packet;
    slots = c->bulk && limit == MAX_SEND_PACKET && !contended(conn) &&
                    c->peer_window >= (uint64_t)PACKETS_PER_TURN * MAX_SEND_PACKET
                ? PACKETS_PER_TURN
                : 1;
    if (may_send(conn))
        batch = send_reserve(conn, (size_t)slots * PACKET_STRIDE, false);
    if (!batch) {
        queue_channel(c);
        client_update_mask(c);
        return;
    }
    for (; message.msg_iovlen < slots; message.msg_iovlen++)
        parts[message.msg_iovlen] = (struct iovec){
            .iov_base = batch + message.msg_iovlen * full_packet_size(conn) + DATA_HEADER,
            .iov_len = slots > 1 ? MAX_SEND_PACKET : limit,
        };
    count = slots > 1 ? recvmsg(c->fd, &message, MSG_DONTWAIT)
                      : recv(c->fd, parts[0].iov_base, parts[0].iov_len, MSG_DONTWAIT);
    if (count > 0)
        send_read(c, batch, (size_t)count, limit, clock_ns());
    else if (count == 0)
        on_eof(c);
    else if (errno != EAGAIN && errno != EINTR)
        on_reset(c);
}

/* Stop sending to the client, because its socket has failed or the client has closed its connection.
 *
 * - If the client has already ended its stream, or the channel accepts no more data from the client, close the channel.
 * - If the client has reset its connection, send the data that the channel accepts immediately, and then close the channel,
 *   because SSH cannot forward a reset (RFC 4254, section 5.3).
 * - Otherwise, continue to read from the client.
 *
 * Args: error: the errno of the failed system call. The kernel reports an error only once, so SO_ERROR no longer
 *   contains it. If no system call has failed, `error` is 0, and this function reads SO_ERROR.
 */
void client_unwritable(struct channel *c, int error)
{
    socklen_t size = sizeof error;
    uint64_t before, dropped = c->held.size;

    if (!c->attached || c->ended)
        return;
    if (!error)
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    c->client_broken = true;
    c->client_was_reset |= error != 0 && error != EPIPE;
    chunks_free(&c->held);
    gauge_set(&c->gauge->held, 0);
    if (dropped)
        channel_consumed(c, dropped, clock_ns());
    if (c->client_eof || c->channel_unwritable) {
        channel_send_close(c);
        ending_finish(c, CLOSE_CLIENT_RESET);
    } else if (c->client_was_reset) {
        do {
            before = atomic_load_explicit(&c->gauge->to_backend, memory_order_relaxed);
            client_read(c);
        } while (!c->ended && before != atomic_load_explicit(&c->gauge->to_backend, memory_order_relaxed));
        ending_abort(c, CLOSE_CLIENT_RESET);
    } else {
        client_update_mask(c);
    }
}

void client_event(struct channel *c, uint32_t events)
{
    uint32_t mask = c->mask;

    if (c->ended || !c->attached)
        return;
    if (events == EPOLLIN && mask == EPOLLIN) {
        client_read(c);
        return;
    }
    /* Without EPOLLIN and EPOLLOUT in `mask`, epoll reports only hang-ups and errors. EPOLLET in `mask` means that
     * the native engine no longer writes to this socket. A hang-up without EPOLLERR is then normal. */
    if (!(mask & (EPOLLIN | EPOLLOUT))) {
        if (events & EPOLLERR || !(mask & EPOLLET))
            client_unwritable(c, 0);
        return;
    }
    if (events & (EPOLLOUT | HANGUP) && c->held.size)
        client_flush(c);
    if (events & ~(uint32_t)EPOLLOUT && mask & EPOLLIN && !c->ended)
        client_read(c);
    if (!c->ended)
        client_update_mask(c);
}
