/* Checks the engine's state after each iteration of the engine's event loop. */
#include "listeners.h"
#include "pairs.h"

#define REPORT_DELAY (2 * SECOND / 1000) /* the same value as in queue.c */

static void check_mask(int fd, uint32_t mask, uint32_t wanted)
{
    const struct file *f = file_of(fd);

    CHECK(mask == wanted, "descriptor %d waits for %x, not for %x", fd, mask, wanted);
    CHECK(f->registered == (mask != 0) && (!mask || f->mask == mask), "descriptor %d has another registration", fd);
}

static void check_receiving(const struct connection *conn)
{
    bool stopped = conn->await_key || conn->halted || conn->unaccepted > MAX_UNACCEPTED || congested(conn) ||
                   conn->end - conn->start == RECEIVE_SIZE;

    CHECK(conn->start <= conn->end && conn->end <= RECEIVE_SIZE, "%zu to %zu received bytes", conn->start, conn->end);
    CHECK(conn->unaccepted <= MAX_UNACCEPTED + MAX_PACKET, "%llu bytes for Python",
          (unsigned long long)conn->unaccepted);
    check_mask(conn->fd, conn->mask, (stopped ? 0 : EPOLLIN) | (conn->blocked ? EPOLLOUT : 0));
}

static void check_sending(const struct connection *conn)
{
    const struct channel *last = NULL;
    uint32_t count = 0;

    CHECK(conn->out_start <= conn->out_end && conn->out_end <= conn->out_capacity, "%zu to %zu of a batch of %zu bytes",
          conn->out_start, conn->out_end, conn->out_capacity);
    CHECK(conn->blocked || conn->out_start == conn->out_end, "%zu bytes are not sent", conn->out_end - conn->out_start);
    CHECK(conn->paused || (!conn->deferred.size && !conn->deferred_count), "packets wait for the end of no key exchange");
    for (const struct channel *c = conn->queue_first; c; c = c->queue_next) {
        CHECK(c->queued && c->connection == conn && c->queue_previous == last, "the queue is inconsistent");
        last = c;
        count++;
    }
    CHECK(conn->queue_last == last && conn->queue_size == count, "%u channels are queued, not %u", count, conn->queue_size);
    CHECK(!count || !may_send(conn), "channels wait, although the connection can send");
}

static void check_numbers(const struct connection *conn)
{
    uint32_t used = 0;
    uint64_t growth = conn->growth_available;

    CHECK(conn->used_count <= conn->table_size && conn->free_count <= conn->used_count, "the table is inconsistent");
    for (uint32_t at = 0; at < conn->used_count; at++) {
        const struct channel *c = conn->table[at];

        CHECK(!c || (c->connection == conn && c->number == at && !c->freed), "channel number %u is inconsistent", at);
        used += c != NULL;
        growth += c ? c->growth : 0;
    }
    for (uint32_t at = 0; at < conn->free_count; at++)
        CHECK(!conn->table[conn->free_numbers[at]], "channel number %u is free and used", conn->free_numbers[at]);
    CHECK(used + conn->free_count == conn->used_count, "channel numbers are lost");
    CHECK(atomic_load(&conn->gauge->responses) == used, "the gauge counts other channels");
    CHECK(growth == CONNECTION_GROWTH, "the growth of windows is not accounted");
}

static void check_connection(const struct connection *conn)
{
    CHECK(!conn->closed && !conn->dirty && conn->gauge->object == conn, "a connection that has ended");
    check_receiving(conn);
    check_sending(conn);
    check_numbers(conn);
}

/* Check that a channel's receive window is complete: it consists of the bytes that the server may still send, the
 * bytes that the engine holds for the client, and the bytes that the engine will grant to the server again.
 */
static void check_window(const struct channel *c)
{
    uint64_t threshold = c->adjust_threshold ? c->adjust_threshold : 1;

    CHECK(c->connection->halted || c->window_remaining >= 0, "a negative window");
    if (c->ended || c->backend_eof || c->sent_close || c->connection->halted)
        return;
    CHECK((uint64_t)c->window_remaining + c->held.size + c->consumed == c->window_size,
          "a window of %llu bytes: %lld free, %zu held, %llu consumed", (unsigned long long)c->window_size,
          (long long)c->window_remaining, c->held.size, (unsigned long long)c->consumed);
    CHECK(c->consumed < threshold, "%llu bytes are not granted again", (unsigned long long)c->consumed);
}

/* Check what the engine knows about the data that a TCP socket sends. */
void check_watched(const struct liveness *l, bool is_unix)
{
    CHECK(!l->watched || (!is_unix && engine->liveness_scan_due), "a watched socket is not scanned");
}

static void check_client(const struct channel *c)
{
    bool accepts = c->connection && c->peer_window && !c->sent_close && !c->queued;
    uint32_t wanted = (!c->client_eof && !c->channel_unwritable && accepts ? EPOLLIN : 0) |
                      (c->held.size ? EPOLLOUT : 0);

    if (!wanted && !c->is_unix)
        wanted = EPOLLHUP | EPOLLERR | (c->eof_delivered || c->client_broken ? (uint32_t)EPOLLET : 0);
    check_mask(c->fd, c->mask, wanted);
    CHECK(c->held.size || !c->backend_eof || c->eof_delivered || c->client_broken,
          "the end of the stream is not passed on");
    check_watched(&c->liveness, c->is_unix);
    CHECK(c->open && c->fd >= 0, "a client without a channel");
}

static void check_channel(const struct channel *c)
{
    CHECK(!c->touched && c->first_piece == NO_INDEX && c->last_piece == NO_INDEX, "data is not delivered");
    CHECK((c->connection == NULL) == c->freed, "a freed channel with a number");
    CHECK(!c->connection || c->connection->table[c->number] == c, "a channel without a number");
    CHECK(!c->queued || c->connection, "a channel of no connection is queued");
    CHECK(!(c->ended && c->freed), "a channel that has ended");
    CHECK(!c->ended || !c->liveness.watched, "a closed socket is watched");
    CHECK((c->held.size == 0) == (c->held.first == NULL), "the number of held bytes is wrong");
    CHECK(c->connection || c->ended || c->link_lost || c->channel_closed, "a channel without a connection");
    if (c->gauge) {
        CHECK(c->gauge->object == c, "the gauge is of another channel");
        CHECK(atomic_load(&c->gauge->held) == c->held.size, "the gauge has other held bytes");
        CHECK(atomic_load(&c->gauge->eof_delivered) == c->eof_delivered, "the gauge has another end of the stream");
    } else {
        CHECK(c->ended, "a channel without a gauge");
    }
    if (c->open && c->connection)
        check_window(c);
    if (c->attached && !c->ended)
        check_client(c);
}

void check_engine(void)
{
    const struct engine *e = engine;
    uint64_t growth = e->growth_available;

    CHECK(!e->dirty && !e->broken && !e->touched && !e->freed && !e->piece_count, "the turn has left work");
    CHECK(!e->records.size || e->records_urgent || (e->report_due && e->report_due <= fake_now + REPORT_DELAY),
          "records wait");
    CHECK(!(e->histograms_due || e->liveness_scan_due || e->slow_scan_due || e->report_due) || e->timer_set, "the timer is not set");
    for (const struct connection *conn = e->connections; conn; conn = conn->next) {
        CHECK(!conn->next || conn->next->previous == conn, "the list of connections is inconsistent");
        check_connection(conn);
    }
    for (const struct channel *c = e->channels; c; c = c->next) {
        CHECK(!c->next || c->next->previous == c, "the list of channels is inconsistent");
        check_channel(c);
        growth += c->growth;
    }
    check_listeners();
    check_joined();
    check_pairs();
    CHECK(growth == growth_budget, "the growth of windows is not accounted");
}
