/* Manages the channels that wait to send on their SSH connection. The channels take turns: the channel that has waited
 * longest sends first. */
#include "engine.h"

/* Return whether a channel may send only one packet per turn, because the connection is slow and other channels wait. */
bool contended(const struct wire *w)
{
    return w->batch_limit == SLOW_BATCH_SIZE && (w->round_size > 1 || w->queue_first);
}

/* Add a channel to the end of the queue. A channel that could not send in its turn goes to the front instead. A channel
 * that is already queued keeps its position. */
void queue_channel(struct channel *c)
{
    struct wire *w = c->wire;

    if (c->queued || !w)
        return;
    c->queued = true;
    c->queue_previous = c->has_turn ? NULL : w->queue_last;
    c->queue_next = c->has_turn ? w->queue_first : NULL;
    if (c->queue_previous)
        c->queue_previous->queue_next = c;
    else
        w->queue_first = c;
    if (c->queue_next)
        c->queue_next->queue_previous = c;
    else
        w->queue_last = c;
    w->queue_size++;
}

void dequeue_channel(struct channel *c)
{
    struct wire *w = c->wire;

    if (!c->queued || !w)
        return;
    c->queued = false;
    if (c->queue_previous)
        c->queue_previous->queue_next = c->queue_next;
    else
        w->queue_first = c->queue_next;
    if (c->queue_next)
        c->queue_next->queue_previous = c->queue_previous;
    else
        w->queue_last = c->queue_previous;
    w->queue_size--;
}

/* Let each waiting channel send once, in the order of the queue, until the socket is full. */
void serve_queue(struct wire *w)
{
    w->round_size = w->queue_size;
    while (w->queue_first && may_send(w)) {
        struct channel *c = w->queue_first;

        dequeue_channel(c);
        c->has_turn = true;
        client_read(c);
        c->has_turn = false;
        if (c->queued)
            break;
        if (!c->ended)
            client_update_mask(c);
    }
}
