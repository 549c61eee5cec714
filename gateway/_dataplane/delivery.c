/* Sends the data that arrives on a channel to the channel's client. */
#include <errno.h>
#include <sys/socket.h>

#include "engine.h"

#define MAX_IOVECS 64u  /* maximum number of pieces in one system call; the kernel refuses more than 1024 */
#define SAMPLE_EVERY 4u /* the latency of one in four responses is recorded, starting with the first */

/* Record data that has arrived on the channel. The data stays in the receive buffer until `client_deliver_all` sends it. */
void client_add_piece(struct channel *c, const uint8_t *data, uint32_t size)
{
    struct engine *e = c->engine;

    if (!size)
        return;
    if (e->piece_count == e->piece_capacity) {
        int capacity = e->piece_capacity ? e->piece_capacity * 2 : 256;
        struct piece *larger = realloc(e->pieces, (size_t)capacity * sizeof *larger);

        if (!larger) {
            connection_break(c->connection, ENOMEM);
            return;
        }
        e->pieces = larger;
        e->piece_capacity = capacity;
    }
    e->pieces[e->piece_count] = (struct piece){.data = data, .size = size, .next = NO_INDEX};
    if (c->first_piece == NO_INDEX)
        c->first_piece = e->piece_count;
    else
        e->pieces[c->last_piece].next = e->piece_count;
    c->last_piece = e->piece_count++;
    if (!c->touched) {
        c->touched = true;
        c->next_touched = e->touched;
        e->touched = c;
    }
}

/* Add to `from_backend` the number of bytes that a system call will try to send. Call this function before the system
 * call, so that `from_backend` is never less than the number of bytes that the client has received. */
static void count_offered(struct channel *c, size_t offered)
{
    atomic_fetch_add_explicit(&c->gauge->from_backend, offered, memory_order_relaxed);
}

/* After a system call, subtract from `from_backend` the bytes that the call did not send. `sent` is the result of the call. */
static void count_sent(struct channel *c, size_t offered, ssize_t sent)
{
    size_t rest = offered - (sent > 0 ? (size_t)sent : 0);

    if (rest)
        atomic_fetch_sub_explicit(&c->gauge->from_backend, rest, memory_order_relaxed);
}

static void record_latency(struct channel *c, uint64_t now)
{
    atomic_fetch_add_explicit(&c->gauge->responses, 1, memory_order_relaxed);
    if (c->measure) {
        if (c->until_sample == 0) {
            histogram_add(c->engine, (uint32_t)c->histogram, now - c->request_time);
            c->until_sample = SAMPLE_EVERY;
        }
        c->until_sample--;
    }
    c->request_time = 0;
    gauge_set(&c->gauge->request_time, 0);
}

/* Keep unsent pieces until the client's socket accepts them. If the socket is closed or has failed, drop the pieces.
 *
 * Args: at: index of the first piece that is not sent completely; skip: number of bytes of this piece that were already
 *   sent.
 */
static void hold(struct channel *c, int at, size_t skip, uint64_t now)
{
    struct piece *pieces = c->engine->pieces;

    for (; at != NO_INDEX; at = pieces[at].next) {
        size_t size = pieces[at].size - skip;

        if (c->client_broken || c->ended)
            channel_consumed(c, size, now);
        else if (!chunks_append(&c->held, pieces[at].data + skip, size)) {
            ending_abort(c, CLOSE_ABORTED);
            return;
        }
        skip = 0;
    }
    if (c->gauge)
        gauge_set(&c->gauge->held, c->held.size);
    client_update_mask(c);
}

/* Send pieces to the client until its socket is full. Return the index of the first piece that is not sent completely. */
static int send_pieces(struct channel *c, size_t *sent_of_first, uint64_t *total)
{
    struct piece *pieces = c->engine->pieces;
    int at = c->first_piece;

    while (at != NO_INDEX) {
        struct iovec parts[MAX_IOVECS];
        struct msghdr message = {.msg_iov = parts};
        size_t offered = 0;
        ssize_t sent;

        for (int each = at; each != NO_INDEX && message.msg_iovlen < MAX_IOVECS; each = pieces[each].next) {
            parts[message.msg_iovlen++] =
                (struct iovec){.iov_base = (void *)(uintptr_t)pieces[each].data, .iov_len = pieces[each].size};
            offered += pieces[each].size;
        }
        count_offered(c, offered);
        sent = message.msg_iovlen == 1 ? send(c->fd, parts[0].iov_base, offered, MSG_NOSIGNAL | MSG_DONTWAIT)
                                       : sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        count_sent(c, offered, sent);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno != EAGAIN) {
            client_unwritable(c, errno);
            return at;
        }
        *sent_of_first = sent > 0 ? (size_t)sent : 0;
        *total += *sent_of_first;
        while (at != NO_INDEX && *sent_of_first >= pieces[at].size) {
            *sent_of_first -= pieces[at].size;
            at = pieces[at].next;
        }
        if (sent < (ssize_t)offered)
            break;
    }
    return at;
}

/* Send the data of a channel to its client, and keep the bytes that the client's socket does not accept. */
static void deliver(struct channel *c)
{
    uint64_t now = clock_ns(), total = 0;
    size_t skip = 0;
    int rest = c->first_piece;

    if (!c->ended)
        for (int at = rest; at != NO_INDEX && c->observer.tap; at = c->engine->pieces[at].next)
            report_tap(c->engine, c->token, &c->observer, true, now, c->engine->pieces[at].data,
                       c->engine->pieces[at].size);
    if (c->attached && !c->held.size && !c->client_broken && !c->ended) {
        gauge_set(&c->gauge->last_active, now);
        liveness_watch(c->engine, &c->liveness, c->is_unix);
        if (c->request_time)
            record_latency(c, now);
        rest = send_pieces(c, &skip, &total);
        if (total)
            channel_consumed(c, total, now);
    }
    if (rest != NO_INDEX)
        hold(c, rest, skip, now);
}

/* Send the data that has arrived on all channels to the clients of these channels. */
void client_deliver_all(struct engine *e)
{
    while (e->touched) {
        struct channel *c = e->touched;

        e->touched = c->next_touched;
        c->touched = false;
        deliver(c);
        c->first_piece = c->last_piece = NO_INDEX;
    }
    e->piece_count = 0;
}

/* Send the bytes that the client's socket did not accept earlier. */
void client_flush(struct channel *c)
{
    size_t offered = c->held.size;
    uint64_t now = clock_ns();
    ssize_t sent;

    count_offered(c, offered);
    liveness_watch(c->engine, &c->liveness, c->is_unix);
    sent = chunks_send(&c->held, c->fd);
    count_sent(c, offered, sent);

    if (sent < 0) {
        client_unwritable(c, errno);
        return;
    }
    gauge_set(&c->gauge->last_active, now);
    gauge_set(&c->gauge->held, c->held.size);
    channel_consumed(c, (uint64_t)sent, now);
    if (!c->held.size)
        ending_propagate(c);
}
