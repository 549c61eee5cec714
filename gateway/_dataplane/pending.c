/* Manages accepted clients until they are connected to the target. Each client waits for an SSH channel or a dial. On
 * success, the native engine connects the client to the target. On failure, the native engine returns the client to Python. */
#include "listener.h"

#define SLOW_OPEN (4 * SECOND / 10) /* if a client waits this long, its listener stops, and Python handles new clients */

/* Schedule a call of `pending_stop_slow` for the time `due`, unless an earlier call is scheduled. */
void schedule_slow_scan(struct engine *e, uint64_t due)
{
    if (!e->slow_scan_due || due < e->slow_scan_due)
        e->slow_scan_due = due;
}

/* Add a client to the waiting clients of its listener. */
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
 * Args: abandoned: whether the target might have accepted a connection for this client, or might still accept one.
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
    joined_add(&c->joined, c->pending.listener, c->token, c->connection->token, c->pending.accepted_at);
    client_attach(c, pending_remove(&c->pending), histogram, ATTACH_MEASURE);
}

static void give_back(struct pending *p, bool abandoned)
{
    /* `pending_remove` can free the listener. Its struct stays valid until the end of this loop iteration. */
    const struct listener *l = p->listener;
    uint64_t waited = clock_ns() - p->accepted_at;

    report_returned(l, pending_remove(p), waited, abandoned);
}

/* Return a client to Python after its channel or dial has failed. Stop the listener, so that Python handles new clients.
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

/* Return the waiting clients of a listener or SSH connection to Python. If the channel of one of these clients opens
 * later, the native engine closes the channel.
 *
 * Args: of: the `source` of the listener or SSH connection.
 */
void pending_recall(struct engine *e, const struct source *of)
{
    struct listener *next_listener;
    struct pending *next;

    for (struct listener *l = e->listeners; l; l = next_listener) {
        next_listener = l->next;
        for (struct pending *p = l->first; p; p = next) {
            struct channel *c = channel_of(p);

            next = p->next;
            if (of != &l->source && !(c && of == &c->connection->source))
                continue;
            give_back(p, true);
            if (c)
                c->abandoned = c->ended = true;
            else
                dial_close((struct dial *)p->owner);
        }
    }
}

/* Stop each listener whose oldest waiting client has waited for SLOW_OPEN or longer. Also end the
 * waits for a permit (COMMAND_PERMIT) that have lasted PERMIT_WAIT. */
void pending_stop_slow(struct engine *e, uint64_t now)
{
    struct listener *next;

    e->slow_scan_due = 0;
    for (struct listener *l = e->listeners; l; l = next) {
        next = l->next;
        if (l->permit_due && now >= l->permit_due) {
            l->permit_due = 0;
            l->permit_waited = true; /* if the next client arrives before a permit, `wait_for_permit` stops the listener */
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
