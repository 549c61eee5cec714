/* The epoll loop. */
#include <errno.h>
#include <stdint.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

#define MAX_EVENTS 256

static struct source timer_source = {.kind = SOURCE_TIMER};

uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

bool engine_init(struct engine *e, const uint64_t *bounds, uint32_t bound_count)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &timer_source};

    pthread_mutex_init(&e->lock, NULL);
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    e->bound_count = bound_count;
    memcpy(e->bounds, bounds, bound_count * sizeof *bounds);
    return e->epoll >= 0 && e->timer >= 0 && epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->timer, &event) == 0 &&
           getrandom(e->padding, sizeof e->padding, 0) == sizeof e->padding;
}

/* Free a wire or channel at the end of the turn. */
void free_later(struct engine *e, struct source *source)
{
    source->kind = SOURCE_FREED;
    source->next_freed = e->freed;
    e->freed = source;
}

static void free_now(struct engine *e)
{
    while (e->freed) {
        struct source *next = e->freed->next_freed;

        free(e->freed);
        e->freed = next;
    }
}

static void dispatch(struct engine *e, const struct epoll_event *event)
{
    struct source *source = event->data.ptr;

    switch (source->kind) {
    case SOURCE_TIMER:
        timer_expired(e);
        break;
    case SOURCE_WIRE:
        wire_event((struct wire *)source, event->events);
        break;
    case SOURCE_CHANNEL:
        client_event((struct channel *)source, event->events);
        break;
    default: /* the object was freed by an earlier event of this turn */
        break;
    }
}

/* Close wires that have failed. This is delayed, because the functions that notice a failure still use the wire. */
static void close_broken(struct engine *e)
{
    while (e->broken) {
        struct wire *w = e->broken;

        e->broken = w->next_broken;
        wire_free(w);
    }
}

/* Send what the events of this turn have queued, until nothing is left to send. */
static void finish_turn(struct engine *e)
{
    do {
        while (e->dirty) {
            struct wire *w = e->dirty;

            e->dirty = w->next_dirty;
            w->dirty = false;
            send_flush(w);
            wire_check_rekey(w);
            wire_update_mask(w);
        }
        close_broken(e);
    } while (e->dirty);
    timer_arm(e);
    free_now(e);
}

/* Run the commands that wait, then wait for events and handle them.
 *
 * Return whether records wait for Python. Errors of epoll_wait(2) other than EINTR do not happen with a valid epoll.
 */
bool engine_turn(struct engine *e, int timeout_ms)
{
    struct epoll_event events[MAX_EVENTS];
    int count;
    bool report;

    run_commands(e);
    finish_turn(e);
    count = epoll_wait(e->epoll, events, MAX_EVENTS, timeout_ms);
    for (int at = 0; at < count; at++)
        dispatch(e, &events[at]);
    if (count > 0) {
        run_commands(e);
        finish_turn(e);
    }
    pthread_mutex_lock(&e->lock);
    report = e->records.size > 0 || e->records_lost;
    pthread_mutex_unlock(&e->lock);
    return report;
}

/* Close the descriptors of clients in records that Python has not taken. */
static void close_reported(struct engine *e)
{
    struct message_header header;

    for (size_t at = 0; at < e->records.size; at += header.size) {
        memcpy(&header, e->records.data + at, sizeof header);
        if (header.kind == RECORD_ENDED && header.b >= 0)
            close((int)header.b);
    }
}

/* Reset every client, close every descriptor, and free all memory. No other thread may use the engine. */
void engine_clear(struct engine *e)
{
    while (e->wires)
        wire_free(e->wires);
    while (e->channels) {
        struct channel *c = e->channels;

        ending_abort(c, CLOSE_LINK_LOST);
        if (!c->ended)
            ending_finish(c, CLOSE_LINK_LOST);
        if (e->channels == c)
            channel_release(c);
    }
    free_now(e);
    close_reported(e);
    const int descriptors[] = {e->epoll, e->timer};

    for (size_t at = 0; at < sizeof descriptors / sizeof *descriptors; at++)
        if (descriptors[at] >= 0)
            close(descriptors[at]);
    for (uint32_t at = 0; at < e->slab_count; at++)
        free(e->slabs[at]);
    free(e->slabs);
    free(e->pieces);
    free(e->histograms);
    bytes_free(&e->commands);
    bytes_free(&e->running);
    bytes_free(&e->records);
    pthread_mutex_destroy(&e->lock);
}
