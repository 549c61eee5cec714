/* Clients of listeners whose channels are not open yet: each is joined when its channel opens, or returned to Python. */
#include "listener.h"

#define SLOW_OPEN (4 * SECOND / 10) /* if a reply takes longer, the listener stops: Python checks the connection */

static void schedule(struct engine *e, uint64_t due)
{
    if (!e->slow_scan_due || due < e->slow_scan_due)
        e->slow_scan_due = due;
}

/* Store the client of a channel until the channel opens. */
void pending_add(struct listener *l, struct channel *c, int fd)
{
    c->listener = l;
    c->unannounced = true;
    c->fd = fd;
    c->accepted_at = clock_ns();
    c->queue_previous = l->last;
    if (l->last)
        l->last->queue_next = c;
    else
        l->first = c;
    l->last = c;
    l->pending++;
    schedule(l->engine, c->accepted_at + SLOW_OPEN);
    listener_watch(l);
}

/* Remove a channel, and return its client. */
static int pending_remove(struct channel *c)
{
    struct listener *l = c->listener;
    int fd = c->fd;

    if (c->queue_previous)
        c->queue_previous->queue_next = c->queue_next;
    else
        l->first = c->queue_next;
    if (c->queue_next)
        c->queue_next->queue_previous = c->queue_previous;
    else
        l->last = c->queue_previous;
    c->queue_previous = c->queue_next = NULL;
    c->listener = NULL;
    c->fd = -1;
    l->pending--;
    listener_watch(l);
    if (l->stopped && !l->pending)
        listener_free(l);
    return fd;
}

/* Join the client to its channel, which has opened. */
void pending_joined(struct channel *c)
{
    const int64_t arguments[4] = {(int64_t)c->token, (int64_t)c->wire->token, (int64_t)(clock_ns() - c->accepted_at), 0};
    struct listener *l = c->listener;
    int histogram = (int)l->setup->histogram, fd = pending_remove(c);

    c->unannounced = false;
    emit(l->engine, RECORD_JOINED, l->token, arguments, NULL, 0);
    client_attach(c, fd, histogram, ATTACH_MEASURE);
}

/* Report a client that is returned to Python. */
void report_returned(const struct listener *l, int fd, uint64_t waited)
{
    const int64_t arguments[4] = {fd, (int64_t)waited, 0, 0};

    emit(l->engine, RECORD_RETURNED, l->token, arguments, NULL, 0);
}

static void give_back(struct channel *c)
{
    struct listener *l = c->listener;
    uint64_t waited = clock_ns() - c->accepted_at;

    report_returned(l, pending_remove(c), waited);
}

/* Return the client of a channel that did not open, and stop the listener: Python handles failures. */
void pending_failed(struct channel *c)
{
    listener_stop(c->listener);
    give_back(c);
}

/* Return the pending clients of a listener or wire. Their channels are closed if they open later. */
void pending_recall(struct engine *e, const struct source *of)
{
    struct listener *next_listener;
    struct channel *next;

    for (struct listener *l = e->listeners; l; l = next_listener) {
        next_listener = l->next;
        for (struct channel *c = l->first; c; c = next) {
            next = c->queue_next;
            if (of != &l->source && of != &c->wire->source)
                continue;
            give_back(c);
            c->abandoned = c->ended = true;
        }
    }
}

/* Stop the listeners that have waited too long for the reply to a CHANNEL_OPEN. */
void pending_stop_slow(struct engine *e, uint64_t now)
{
    struct listener *next;

    e->slow_scan_due = 0;
    for (struct listener *l = e->listeners; l; l = next) {
        next = l->next;
        if (!l->first || l->stopped)
            continue;
        if (now - l->first->accepted_at >= SLOW_OPEN)
            listener_stop(l);
        else
            schedule(e, l->first->accepted_at + SLOW_OPEN);
    }
}
