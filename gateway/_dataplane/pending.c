/* Manages the clients that a listener has accepted, and that are not connected to the target yet. Each client waits for a
 * channel or dial. When the channel or dial is open, the engine connects the client. If the channel or dial fails, the
 * engine returns the client to Python. */
#include "listener.h"

#define SLOW_OPEN (4 * SECOND / 10) /* if a client waits longer than this time, the listener stops, and Python handles new
                                       clients */

/* Let the engine call `pending_stop_slow` at the time `due`, or earlier. */
void schedule_slow_scan(struct engine *e, uint64_t due)
{
    if (!e->slow_scan_due || due < e->slow_scan_due)
        e->slow_scan_due = due;
}

/* Store a client until its channel or dial is open. */
void pending_add(struct listener *l, struct pending *p, struct source *owner, int fd)
{
    *p = (struct pending){.listener = l, .previous = l->last, .owner = owner, .fd = fd, .accepted_at = clock_ns()};
    if (l->last)
        l->last->next = p;
    else
        l->first = p;
    l->last = p;
    l->pending++;
    schedule_slow_scan(l->engine, p->accepted_at + SLOW_OPEN);
    listener_watch(l);
}

/* Remove a client from the waiting clients of its listener, and return its socket. If this was the last
 * waiting client of a stopped listener, free the listener. */
int pending_remove(struct pending *p)
{
    struct listener *l = p->listener;

    if (p->previous)
        p->previous->next = p->next;
    else
        l->first = p->next;
    if (p->next)
        p->next->previous = p->previous;
    else
        l->last = p->previous;
    p->listener = NULL;
    l->pending--;
    listener_watch(l);
    if (l->stopped && !l->pending)
        listener_free(l);
    return p->fd;
}

/* Return a client to Python with RECORD_RETURNED.
 *
 * Args: abandoned: whether the target might have accepted the client's channel or dial, or might accept it later.
 */
void report_returned(const struct listener *l, int fd, uint64_t waited, bool abandoned)
{
    const int64_t arguments[4] = {fd, (int64_t)waited, abandoned, 0};

    emit(l->engine, RECORD_RETURNED, l->token, arguments, NULL, 0);
}

/* Connect a waiting client to its channel, which is now open. */
void pending_joined(struct channel *c)
{
    int histogram = (int)c->pending.listener->setup->histogram;

    c->unannounced = false;
    joined_add(&c->joined, c->pending.listener, c->token, c->wire->token, c->pending.accepted_at);
    client_attach(c, pending_remove(&c->pending), histogram, ATTACH_MEASURE);
}

static void give_back(struct pending *p, bool abandoned)
{
    const struct listener *l = p->listener; /* a freed listener stays valid until the end of this loop iteration */
    uint64_t waited = clock_ns() - p->accepted_at;

    report_returned(l, pending_remove(p), waited, abandoned);
}

/* Return a client to Python after its channel or dial has failed, and stop the listener, because Python handles failures.
 *
 * Args: abandoned: see report_returned.
 */
void pending_failed(struct pending *p, bool abandoned)
{
    listener_stop(p->listener);
    give_back(p, abandoned);
}

static struct channel *channel_of(const struct pending *p)
{
    return p->owner->kind == SOURCE_CHANNEL ? (struct channel *)p->owner : NULL;
}

/* Return waiting clients to Python. `of` is the `source` of the listener or SSH connection of these clients. If the channel of
 * one of these clients opens later, the engine closes the channel. */
void pending_recall(struct engine *e, const struct source *of)
{
    struct listener *next_listener;
    struct pending *next;

    for (struct listener *l = e->listeners; l; l = next_listener) {
        next_listener = l->next;
        for (struct pending *p = l->first; p; p = next) {
            struct channel *c = channel_of(p);

            next = p->next;
            if (of != &l->source && !(c && of == &c->wire->source))
                continue;
            give_back(p, true);
            if (c)
                c->abandoned = c->ended = true;
            else
                dial_close((struct dial *)p->owner);
        }
    }
}

/* Stop each listener whose oldest waiting client has waited for SLOW_OPEN or longer. If a listener has waited long
 * enough for a permit, let it accept clients again. If it still has no permit when the next client arrives, it stops. */
void pending_stop_slow(struct engine *e, uint64_t now)
{
    struct listener *next;

    e->slow_scan_due = 0;
    for (struct listener *l = e->listeners; l; l = next) {
        next = l->next;
        if (l->permit_due && now >= l->permit_due) {
            l->permit_due = 0;
            l->permit_waited = true;
            listener_watch(l);
        } else if (l->permit_due) {
            schedule_slow_scan(e, l->permit_due);
        }
        if (!l->first || l->stopped)
            continue;
        if (now - l->first->accepted_at >= SLOW_OPEN)
            listener_stop(l);
        else
            schedule_slow_scan(e, l->first->accepted_at + SLOW_OPEN);
    }
}
