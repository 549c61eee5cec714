/* Manages the only data that Python and the native engine share:
 *
 * - commands, which Python sends to the native engine
 * - records, which the native engine sends to Python
 * - slots, which contain the counters and times of objects such as channels
 */
#include <errno.h>
#include <stdint.h>
#include <unistd.h>

#include "engine.h"

#define SLAB_SLOTS 256u
#define MAX_SLABS 16384u
#define REPORT_DELAY (2 * SECOND / 1000)

static size_t aligned(size_t size)
{
    return (size + 7u) & ~(size_t)7u;
}

bool queue_command(struct engine *e, const struct message_header *header, const void *payload, const void *more,
                   size_t more_size)
{
    size_t size = sizeof *header + aligned(header->payload);
    bool wake = false;
    uint8_t *at;

    if (header->payload > UINT32_MAX / 2)
        return false;
    pthread_mutex_lock(&e->lock);
    at = bytes_extend(&e->commands, size);
    if (at) {
        size_t first = header->payload - more_size;

        memcpy(at, header, sizeof *header);
        ((struct message_header *)(void *)at)->size = (uint32_t)size;
        if (first)
            memcpy(at + sizeof *header, payload, first);
        if (more_size)
            memcpy(at + sizeof *header + first, more, more_size);
        wake = !e->wake_pending;
        e->wake_pending = true;
    }
    pthread_mutex_unlock(&e->lock);
    if (wake)
        thread_wake(e);
    return at != NULL;
}

/* Close the sockets of a record that Python does not receive. */
void close_client_of(const struct message_header *header)
{
    if (header->kind == RECORD_ENDED && header->b >= 0)
        close((int)header->b);
    if (header->kind == RECORD_PAIR_ENDED && header->b >= 0)
        reset_fd((int)header->b, false);
    if (header->kind == RECORD_PAIR_ENDED && header->c >= 0)
        reset_fd((int)header->c, false);
    if (header->kind == RECORD_RETURNED)
        close((int)header->a);
}

static void append(struct engine *e, enum record kind, uint64_t token, const int64_t arguments[4], const void *payload,
                   size_t size, bool urgent)
{
    struct message_header header = {.kind = kind, .token = token};
    size_t total = sizeof header + aligned(size);
    uint8_t *at;

    header.size = (uint32_t)total;
    header.payload = (uint32_t)size;
    if (arguments) {
        header.a = arguments[0];
        header.b = arguments[1];
        header.c = arguments[2];
        header.d = arguments[3];
    }
    pthread_mutex_lock(&e->lock);
    at = bytes_extend(&e->records, total);
    if (at) {
        memcpy(at, &header, sizeof header);
        if (size)
            memcpy(at + sizeof header, payload, size);
    } else {
        e->records_lost = true;
        close_client_of(&header);
    }
    e->records_urgent |= urgent;
    pthread_mutex_unlock(&e->lock);
}

/* Append a record, and notify Python at the end of this loop iteration. If the record contains bytes for a tap, notify
 * Python immediately, because Python must process these bytes before it handles the client's next action. */
void emit(struct engine *e, enum record kind, uint64_t token, const int64_t arguments[4], const void *payload,
          size_t size)
{
    append(e, kind, token, arguments, payload, size, true);
    if (kind == RECORD_TAP)
        thread_report(e, 0);
}

/* Append a record that is not urgent. Python is notified within REPORT_DELAY, and then handles many records together. */
void emit_deferred(struct engine *e, enum record kind, uint64_t token, const int64_t arguments[4])
{
    append(e, kind, token, arguments, NULL, 0, false);
    schedule_report(e, clock_ns() + REPORT_DELAY);
}

/* Notify Python about the records of `emit_deferred` at the time `due`, or earlier. */
void schedule_report(struct engine *e, uint64_t due)
{
    if (!e->report_due || due < e->report_due)
        e->report_due = due;
}

/* Remove and return the records. If records were lost, set `failed` to ENOMEM; otherwise, to the error that ended the thread,
 * or 0. */
struct bytes take_records(struct engine *e, int *failed)
{
    struct bytes taken;

    thread_reported(e);
    pthread_mutex_lock(&e->lock);
    taken = e->records;
    e->records = (struct bytes){0};
    e->report_pending = e->records_urgent = false;
    *failed = e->records_lost ? ENOMEM : e->failed;
    pthread_cond_signal(&e->taken);
    pthread_mutex_unlock(&e->lock);
    return taken;
}

static struct gauge *slot_at(struct engine *e, uint32_t index)
{
    return e->slabs[index / SLAB_SLOTS] + index % SLAB_SLOTS;
}

/* Add a slab (an array of free slots). Slots are numbered from 0. `first_free` and `next_free` are a slot's number plus 1, or
 * 0 for none. */
static bool add_slab(struct engine *e)
{
    struct gauge *slab;
    uint32_t base = e->slab_count * SLAB_SLOTS;

    if (!e->slabs)
        e->slabs = calloc(MAX_SLABS, sizeof(struct gauge *));
    if (!e->slabs || e->slab_count == MAX_SLABS)
        return false;
    slab = aligned_alloc(64, SLAB_SLOTS * sizeof *slab);
    if (!slab)
        return false;
    memset(slab, 0, SLAB_SLOTS * sizeof *slab);
    for (uint32_t at = 0; at < SLAB_SLOTS; at++)
        slab[at].next_free = at + 1 < SLAB_SLOTS ? base + at + 2 : e->first_free;
    e->slabs[e->slab_count++] = slab;
    e->first_free = base + 1;
    return true;
}

uint64_t slot_allocate(struct engine *e)
{
    uint64_t token = 0;

    pthread_mutex_lock(&e->lock);
    if (e->first_free || add_slab(e)) {
        uint32_t index = e->first_free - 1;
        struct gauge *slot = slot_at(e, index);
        uint32_t generation = atomic_load(&slot->generation) + 1;

        e->first_free = slot->next_free;
        gauge_set(&slot->to_backend, 0);
        gauge_set(&slot->from_backend, 0);
        gauge_set(&slot->responses, 0);
        gauge_set(&slot->last_active, clock_ns());
        gauge_set(&slot->request_time, 0);
        gauge_set(&slot->held, 0);
        atomic_store(&slot->eof_delivered, 0);
        slot->object = NULL;
        atomic_store(&slot->generation, generation);
        token = (uint64_t)generation << 32 | index;
    }
    pthread_mutex_unlock(&e->lock);
    return token;
}

struct gauge *slot_find(struct engine *e, uint64_t token)
{
    uint32_t index = (uint32_t)token;
    struct gauge *slot;

    if (index / SLAB_SLOTS >= e->slab_count)
        return NULL;
    slot = slot_at(e, index);
    return (token >> 32 & 1) && atomic_load(&slot->generation) == token >> 32 ? slot : NULL;
}

void slot_release(struct engine *e, uint64_t token)
{
    struct gauge *slot;

    pthread_mutex_lock(&e->lock);
    slot = slot_find(e, token);
    if (slot) {
        /* Python reads tokens as signed numbers, so the highest bit of a generation must stay 0. */
        atomic_store(&slot->generation, ((uint32_t)(token >> 32) + 1) & INT32_MAX);
        slot->next_free = e->first_free;
        e->first_free = (uint32_t)token + 1;
    }
    pthread_mutex_unlock(&e->lock);
}
