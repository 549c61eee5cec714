/* Manages the channels that wait to send on their SSH connection. The channels take turns: the channel that has waited
 * longest sends first. */
#include "engine.h"

/* Return whether a channel may send only one packet per turn, because the connection is slow and other channels wait. */
bool contended(const struct connection *conn)
{
    return conn->batch_limit == SLOW_BATCH_SIZE && (conn->round_size > 1 || conn->queue_first);
}

/* Add a channel to the end of the queue. A channel that could not send in its turn goes to the front instead. A channel
 * that is already queued keeps its position. */
void queue_channel(struct channel *c)
{
    struct connection *conn = c->connection;

    if (c->queued || !conn)
        return;
    c->queued = true;
    c->queue_previous = c->has_turn ? NULL : conn->queue_last;
    c->queue_next = c->has_turn ? conn->queue_first : NULL;
    if (c->queue_previous)
        c->queue_previous->queue_next = c;
    else
        conn->queue_first = c;
    if (c->queue_next)
        c->queue_next->queue_previous = c;
    else
        conn->queue_last = c;
    conn->queue_size++;
}

void dequeue_channel(struct channel *c)
{
    struct connection *conn = c->connection;

    if (!c->queued || !conn)
        return;
    c->queued = false;
    if (c->queue_previous)
        c->queue_previous->queue_next = c->queue_next;
    else
        conn->queue_first = c->queue_next;
    if (c->queue_next)
        c->queue_next->queue_previous = c->queue_previous;
    else
        conn->queue_last = c->queue_previous;
    conn->queue_size--;
}

/* Let each waiting channel send once, in the order of the queue, until the socket is full. */
void serve_queue(struct connection *conn)
{
    conn->round_size = conn->queue_size;
    while (conn->queue_first && may_send(conn)) {
        struct channel *c = conn->queue_first;

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
