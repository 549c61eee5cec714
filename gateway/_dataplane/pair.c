/* Manages a pair of sockets: registers the sockets with epoll, and ends the pair.
 *
 * The client and the backend each receive either the complete stream of the other one, or a reset.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "listener.h"
#include "pair.h"

#define HANGUP ((uint32_t)(EPOLLHUP | EPOLLERR))

static void report_ended(struct engine *e, uint64_t token, enum close_reason reason, int client, int backend,
                         bool deferred)
{
    const int64_t arguments[4] = {reason, client, backend, 0};

    if (deferred && client < 0 && backend < 0)
        emit_deferred(e, RECORD_PAIR_ENDED, token, arguments);
    else
        emit(e, RECORD_PAIR_ENDED, token, arguments, NULL, 0);
}

static void set_mask(struct side *s, uint32_t mask)
{
    struct engine *e = s->pair->engine;
    struct epoll_event event = {.events = mask, .data.ptr = &s->source};
    int operation = !mask ? EPOLL_CTL_DEL : s->mask ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

    if (epoll_ctl(e->epoll, operation, s->fd, &event) == 0)
        s->mask = mask;
    else /* epoll_ctl(2) has failed, because the kernel has no memory left */
        pair_abort(s->pair, CLOSE_ABORTED);
}

/* Set the events that epoll reports for a socket. If the pair waits neither to read from the socket nor to
 * write to the socket, the rules of `client_update_mask` apply. */
static void update_mask(struct side *s)
{
    uint32_t mask;

    if (s->pair->ended)
        return;
    mask = (s->eof || side_waits(s) ? 0 : EPOLLIN) | (side_waits(s->other) ? EPOLLOUT : 0);
    if (!mask && !s->is_unix)
        mask = HANGUP | (s->other->shut ? (uint32_t)EPOLLET : 0);
    if (mask != s->mask)
        set_mask(s, mask);
}

/* Close the socket of one side.
 *
 * - If `reset` is true, or if writes to both sockets fail, reset the socket, and return -1.
 * - If only writes to the other socket fail, keep the socket open, and return its descriptor. Python resets the socket
 *   later, so that the remote end can first receive all data.
 * - Otherwise, close the socket gracefully, and return -1. */
static int close_side(struct side *s, bool reset)
{
    int lingering = -1;

    if (s->mask)
        set_mask(s, 0);
    s->liveness.watched = false;
    if (reset || (s->discarding && s->other->discarding)) /* `discarding` on both sides: writes to both sockets fail */
        reset_fd(s->fd, s->is_unix);
    else if (s->discarding)
        lingering = s->fd;
    else
        close_gracefully(s->fd, s->is_unix);
    s->fd = -1;
    side_drop(s);
    s->source.kind = SOURCE_FREED;
    return lingering;
}

static void finish(struct pair *p, enum close_reason reason, bool reset)
{
    struct engine *e = p->engine;
    int client, backend;

    if (p->ended)
        return;
    p->ended = true;
    client = close_side(&p->client, reset);
    backend = close_side(&p->backend, reset);
    if (p->measure)
        histogram_report(e, p->histogram, p->deferred);
    if (p->previous)
        p->previous->next = p->next;
    else
        e->pairs = p->next;
    if (p->next)
        p->next->previous = p->previous;
    if (!e->pairs)
        pipes_close(e);
    p->gauge->object = NULL;
    if (joined_end(e, &p->joined, reason, client >= 0 || backend >= 0, p->gauge))
        slot_release(e, p->token);
    else
        report_ended(e, p->token, reason, client, backend, p->deferred);
    free_later(e, &p->client.source);
}

/* Reset both sockets immediately, and end the pair. */
void pair_abort(struct pair *p, enum close_reason reason)
{
    finish(p, reason, true);
}

/* End the pair if both directions have ended; otherwise, update the epoll registrations of its sockets. */
void pair_update(struct pair *p)
{
    if (p->client.shut && p->backend.shut) {
        finish(p, p->reason, false);
        return;
    }
    update_mask(&p->client);
    update_mask(&p->backend);
}

static bool prepare(struct engine *e, const struct pair_setup *setup)
{
    if (!e->buffer)
        e->buffer = malloc(PAIR_BUFFER);
    return e->buffer && histogram_ensure(e, setup->histogram);
}

static void add_joined(const struct pending *accepted, struct joined *j, uint64_t token)
{
    if (accepted)
        joined_add(j, accepted->listener, token, 0, accepted->accepted_at);
}

/* Start to relay bytes between two connected sockets. The native engine takes ownership of both descriptors. Return NULL if
 * memory is exhausted.
 *
 * Args: accepted: the client, if a listener has accepted it; otherwise NULL.
 */
struct pair *pair_create(struct engine *e, uint64_t token, const struct pair_setup *setup,
                         const struct pending *accepted)
{
    bool client_is_unix = setup->flags & ATTACH_UNIX, backend_is_unix = setup->flags & ATTACH_UNIX_BACKEND;
    struct gauge *gauge = slot_find(e, token);
    struct pair *p = gauge && prepare(e, setup) ? calloc(1, sizeof *p) : NULL;
    struct joined lost = {0};

    if (!p) {
        reset_fd(setup->client, client_is_unix);
        reset_fd(setup->backend, backend_is_unix);
        add_joined(accepted, &lost, token);
        joined_end(e, &lost, CLOSE_ABORTED, false, gauge);
        report_ended(e, token, CLOSE_ABORTED, -1, -1, false);
        return NULL;
    }
    *p = (struct pair){
        .client = {.source.kind = SOURCE_SIDE, .fd = setup->client, .is_unix = client_is_unix},
        .backend = {.source.kind = SOURCE_SIDE, .fd = setup->backend, .is_unix = backend_is_unix},
        .engine = e, .next = e->pairs, .token = token, .gauge = gauge, .histogram = setup->histogram,
        .measure = setup->flags & ATTACH_MEASURE, .deferred = setup->flags & ATTACH_DEFERRED, .observer.tap = setup->tap,
    };
    p->client.pair = p->backend.pair = p;
    p->client.other = &p->backend;
    p->backend.other = &p->client;
    p->client.pipe = p->backend.pipe = (struct pipe){.read_end = -1, .write_end = -1};
    if (e->pairs)
        e->pairs->previous = p;
    e->pairs = p;
    gauge->object = p;
    add_joined(accepted, &p->joined, token);
    pair_update(p);
    return p;
}
