/* Runs the epoll loop of a native engine. */
#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "listener.h"
#include "pair.h"

#define MAX_EVENTS 256
#define MAX_TURN ((size_t)4 * 1024 * 1024) /* rough limit on the bytes read from pairs per loop iteration; see `share_of` */
#define MIN_SHARE ((size_t)64 * 1024)
#define MAX_SHARE ((size_t)1024 * 1024)

static struct source timer_source = {.kind = SOURCE_TIMER}, wake_source = {.kind = SOURCE_WAKE};

uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

bool engine_init(struct engine *e, const uint64_t *bounds, uint32_t bound_count)
{
    struct epoll_event timer = {.events = EPOLLIN, .data.ptr = &timer_source};
    struct epoll_event wake = {.events = EPOLLIN, .data.ptr = &wake_source};

    pthread_mutex_init(&e->turn, NULL);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->taken, NULL);
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    e->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    e->report = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    e->bound_count = bound_count;
    memcpy(e->bounds, bounds, bound_count * sizeof *bounds);
    return e->epoll >= 0 && e->timer >= 0 && e->wake >= 0 && e->report >= 0 &&
           epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->timer, &timer) == 0 &&
           epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->wake, &wake) == 0 &&
           getrandom(e->padding, sizeof e->padding, 0) == sizeof e->padding;
}

/* Free an SSH connection, channel, listener, dial or pair at the end of this loop iteration. */
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
    case SOURCE_WAKE: /* `engine_turn` runs the commands after all events */
        thread_woken(e);
        break;
    case SOURCE_CONNECTION:
        connection_event((struct connection *)source, event->events);
        break;
    case SOURCE_CHANNEL:
        client_event((struct channel *)source, event->events);
        break;
    case SOURCE_LISTENER:
        listener_event((struct listener *)source);
        break;
    case SOURCE_DIAL:
        dial_event((struct dial *)source);
        break;
    case SOURCE_SIDE:
        side_event((struct side *)source, event->events);
        break;
    default: /* an earlier event of this loop iteration has set the kind to SOURCE_FREED */
        break;
    }
}

/* Free the SSH connections that have failed. The functions that notice a failure only record it, because they still use the
 * connection afterwards. */
static void close_broken(struct engine *e)
{
    while (e->broken) {
        struct connection *conn = e->broken;

        e->broken = conn->next_broken;
        connection_free(conn);
    }
}

/* Finish a loop iteration: send queued packets, close failed SSH connections, set the timer, and free the structs that were
 * passed to `free_later`. */
static void finish_turn(struct engine *e)
{
    do {
        while (e->dirty) {
            struct connection *conn = e->dirty;

            e->dirty = conn->next_dirty;
            conn->dirty = false;
            send_flush(conn);
            connection_check_rekey(conn);
            connection_update_mask(conn);
        }
        close_broken(e);
    } while (e->dirty);
    timer_arm(e);
    free_now(e);
}

/* Return the maximum number of bytes to read from each socket of a pair in this loop iteration. The limit prevents bulk data
 * from delaying other sockets. */
static size_t share_of(int events)
{
    size_t share = MAX_TURN / (size_t)events;

    return share < MIN_SHARE ? MIN_SHARE : share > MAX_SHARE ? MAX_SHARE : share;
}

/* Run the queued commands, wait for events, and handle the events. Return 0, or the error of epoll_wait(2). */
int engine_turn(struct engine *e, int timeout_ms)
{
    struct epoll_event events[MAX_EVENTS];
    int count, error;

    pthread_mutex_lock(&e->turn);
    run_commands(e);
    finish_turn(e);
    pthread_mutex_unlock(&e->turn);
    count = epoll_wait(e->epoll, events, MAX_EVENTS, timeout_ms);
    error = count < 0 && errno != EINTR ? errno : 0;
    if (count > 0) {
        pthread_mutex_lock(&e->turn);
        e->share = share_of(count);
        for (int at = 0; at < count; at++)
            dispatch(e, &events[at]);
        run_commands(e);
        finish_turn(e);
        pthread_mutex_unlock(&e->turn);
    }
    return error;
}

/* Close the sockets in records that Python does not get. */
void close_reported(const struct bytes *records)
{
    struct message_header header;

    for (size_t at = 0; at < records->size; at += header.size) {
        memcpy(&header, records->data + at, sizeof header);
        close_client_of(&header);
    }
}

/* Stop the thread, reset every client, close every descriptor, and free all memory. */
void engine_clear(struct engine *e)
{
    thread_stop(e);
    run_commands(e); /* take ownership of the sockets in the queued commands, so that they are closed below */
    for (struct listener *l = e->listeners, *next; l; l = next) {
        next = l->next;
        listener_stop(l);
        pending_recall(e, &l->source);
    }
    while (e->connections)
        connection_free(e->connections);
    while (e->channels) {
        struct channel *c = e->channels;

        ending_abort(c, CLOSE_LINK_LOST);
        if (!c->ended)
            ending_finish(c, CLOSE_LINK_LOST);
        if (e->channels == c)
            channel_release(c);
    }
    while (e->pairs)
        pair_abort(e->pairs, CLOSE_ABORTED);
    pipes_close(e);
    free_now(e);
    close_reported(&e->records);
    const int descriptors[] = {e->epoll, e->timer, e->wake, e->report};

    for (size_t at = 0; at < sizeof descriptors / sizeof *descriptors; at++)
        if (descriptors[at] >= 0)
            close(descriptors[at]);
    for (uint32_t at = 0; at < e->slab_count; at++)
        free(e->slabs[at]);
    free(e->slabs);
    free(e->pieces);
    free(e->histograms);
    free(e->buffer);
    bytes_free(&e->commands);
    bytes_free(&e->running);
    bytes_free(&e->records);
    pthread_cond_destroy(&e->taken);
    pthread_mutex_destroy(&e->lock);
    pthread_mutex_destroy(&e->turn);
}
