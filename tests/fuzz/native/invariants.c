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

static void check_receiving(const struct wire *w)
{
    bool stopped = w->await_key || w->halted || w->unaccepted > MAX_UNACCEPTED || congested(w) ||
                   w->end - w->start == RECEIVE_SIZE;

    CHECK(w->start <= w->end && w->end <= RECEIVE_SIZE, "%zu to %zu received bytes", w->start, w->end);
    CHECK(w->unaccepted <= MAX_UNACCEPTED + MAX_PACKET, "%llu bytes for Python",
          (unsigned long long)w->unaccepted);
    check_mask(w->fd, w->mask, (stopped ? 0 : EPOLLIN) | (w->blocked ? EPOLLOUT : 0));
}

static void check_sending(const struct wire *w)
{
    const struct channel *last = NULL;
    uint32_t count = 0;

    CHECK(w->out_start <= w->out_end && w->out_end <= w->out_capacity, "%zu to %zu of a batch of %zu bytes",
          w->out_start, w->out_end, w->out_capacity);
    CHECK(w->blocked || w->out_start == w->out_end, "%zu bytes are not sent", w->out_end - w->out_start);
    CHECK(w->paused || (!w->deferred.size && !w->deferred_count), "packets wait for the end of no key exchange");
    for (const struct channel *c = w->queue_first; c; c = c->queue_next) {
        CHECK(c->queued && c->wire == w && c->queue_previous == last, "the queue is inconsistent");
        last = c;
        count++;
    }
    CHECK(w->queue_last == last && w->queue_size == count, "%u channels are queued, not %u", count, w->queue_size);
    CHECK(!count || !may_send(w), "channels wait, although the connection can send");
}

static void check_numbers(const struct wire *w)
{
    uint32_t used = 0;
    uint64_t growth = w->growth_available;

    CHECK(w->used_count <= w->table_size && w->free_count <= w->used_count, "the table is inconsistent");
    for (uint32_t at = 0; at < w->used_count; at++) {
        const struct channel *c = w->table[at];

        CHECK(!c || (c->wire == w && c->number == at && !c->freed), "channel number %u is inconsistent", at);
        used += c != NULL;
        growth += c ? c->growth : 0;
    }
    for (uint32_t at = 0; at < w->free_count; at++)
        CHECK(!w->table[w->free_numbers[at]], "channel number %u is free and used", w->free_numbers[at]);
    CHECK(used + w->free_count == w->used_count, "channel numbers are lost");
    CHECK(atomic_load(&w->gauge->responses) == used, "the gauge counts other channels");
    CHECK(growth == WIRE_GROWTH, "the growth of windows is not accounted");
}

static void check_wire(const struct wire *w)
{
    CHECK(!w->closed && !w->dirty && w->gauge->object == w, "a connection that has ended");
    check_receiving(w);
    check_sending(w);
    check_numbers(w);
}

/* Check that a channel's receive window is complete: it consists of the bytes that the server may still send, the
 * bytes that the engine holds for the client, and the bytes that the engine will grant to the server again.
 */
static void check_window(const struct channel *c)
{
    uint64_t threshold = c->adjust_threshold ? c->adjust_threshold : 1;

    CHECK(c->wire->halted || c->window_remaining >= 0, "a negative window");
    if (c->ended || c->backend_eof || c->sent_close || c->wire->halted)
        return;
    CHECK((uint64_t)c->window_remaining + c->held.size + c->consumed == c->window_size,
          "a window of %llu bytes: %lld free, %zu held, %llu consumed", (unsigned long long)c->window_size,
          (long long)c->window_remaining, c->held.size, (unsigned long long)c->consumed);
    CHECK(c->consumed < threshold, "%llu bytes are not granted again", (unsigned long long)c->consumed);
}

static void check_client(const struct channel *c)
{
    bool accepts = c->wire && c->peer_window && !c->sent_close && !c->queued;
    uint32_t wanted = (!c->client_eof && !c->channel_unwritable && accepts ? EPOLLIN : 0) |
                      (c->held.size ? EPOLLOUT : 0);

    if (!wanted && !c->is_unix)
        wanted = EPOLLHUP | EPOLLERR | (c->eof_delivered || c->client_broken ? (uint32_t)EPOLLET : 0);
    check_mask(c->fd, c->mask, wanted);
    CHECK(c->held.size || !c->backend_eof || c->eof_delivered || c->client_broken,
          "the end of the stream is not passed on");
    CHECK(c->is_unix || (c->stall.since != 0) == (c->held.size != 0), "a wrong time of the stall");
    CHECK(c->open && c->fd >= 0, "a client without a channel");
}

static void check_channel(const struct channel *c)
{
    CHECK(!c->touched && c->first_piece == NO_INDEX && c->last_piece == NO_INDEX, "data is not delivered");
    CHECK((c->wire == NULL) == c->freed, "a freed channel with a number");
    CHECK(!c->wire || c->wire->table[c->number] == c, "a channel without a number");
    CHECK(!c->queued || c->wire, "a channel of no connection is queued");
    CHECK(!(c->ended && c->freed), "a channel that has ended");
    CHECK((c->held.size == 0) == (c->held.first == NULL), "the number of held bytes is wrong");
    CHECK(c->wire || c->ended || c->link_lost || c->channel_closed, "a channel without a connection");
    if (c->gauge) {
        CHECK(c->gauge->object == c, "the gauge is of another channel");
        CHECK(atomic_load(&c->gauge->held) == c->held.size, "the gauge has other held bytes");
        CHECK(atomic_load(&c->gauge->eof_delivered) == c->eof_delivered, "the gauge has another end of the stream");
    } else {
        CHECK(c->ended, "a channel without a gauge");
    }
    if (c->open && c->wire)
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
    CHECK(!(e->histograms_due || e->stall_scan_due || e->slow_scan_due || e->report_due) || e->timer_set, "the timer is not set");
    for (const struct wire *w = e->wires; w; w = w->next) {
        CHECK(!w->next || w->next->previous == w, "the list of connections is inconsistent");
        check_wire(w);
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
