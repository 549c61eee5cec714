/* Measures response latencies, and sets the timer of the native engine. */
#include <sys/timerfd.h>
#include <unistd.h>

#include "listener.h"
#include "pair.h"

#define HISTOGRAM_DELAY (SECOND / 10)

bool histogram_ensure(struct engine *e, uint32_t index)
{
    if (index >= e->histogram_count) {
        uint32_t count = (index + 1) * 2;
        struct histogram *larger = realloc(e->histograms, count * sizeof *larger);

        if (!larger)
            return false;
        memset(larger + e->histogram_count, 0, (count - e->histogram_count) * sizeof *larger);
        e->histograms = larger;
        e->histogram_count = count;
    }
    return true;
}

void histogram_add(struct engine *e, uint32_t index, uint64_t ns)
{
    struct histogram *h = &e->histograms[index];
    uint32_t at = 0;

    while (at < e->bound_count && ns > e->bounds[at])
        at++;
    h->counts[at]++;
    h->sum += ns;
    h->dirty = true;
    if (!e->histograms_due)
        e->histograms_due = clock_ns() + HISTOGRAM_DELAY;
}

/* Report the new observations of a histogram to Python, and reset the histogram. */
void histogram_emit(struct engine *e, uint32_t index, bool closed)
{
    struct histogram *h;

    if (!histogram_ensure(e, index))
        return;
    h = &e->histograms[index];
    if (h->dirty || closed) {
        const int64_t arguments[4] = {index, closed, (int64_t)h->sum, 0};

        emit(e, RECORD_HISTOGRAM, 0, arguments, h->counts, (e->bound_count + 1) * sizeof *h->counts);
        *h = (struct histogram){0};
    }
}

/* Report the latencies of a channel or pair that has ended. If `later` is true, report the latencies together with
 * the next records of `emit_deferred`. If `later` is false, report the latencies immediately. */
void histogram_report(struct engine *e, uint32_t index, bool later)
{
    if (later)
        e->histograms[index].deferred = true;
    else
        histogram_emit(e, index, false);
}

/* Set the timer to the earliest scheduled time. */
void timer_arm(struct engine *e)
{
    uint64_t due = e->histograms_due;
    struct itimerspec when = {0};

    if (e->liveness_scan_due && (!due || e->liveness_scan_due < due))
        due = e->liveness_scan_due;
    if (e->slow_scan_due && (!due || e->slow_scan_due < due))
        due = e->slow_scan_due;
    if (e->report_due && (!due || e->report_due < due))
        due = e->report_due;
    if (!due || due == e->timer_set)
        return;
    e->timer_set = due;
    when.it_value.tv_sec = (time_t)(due / SECOND);
    when.it_value.tv_nsec = (long)(due % SECOND);
    timerfd_settime(e->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void emit_histograms(struct engine *e, bool only_deferred)
{
    for (uint32_t at = 0; at < e->histogram_count; at++) {
        if (!only_deferred || e->histograms[at].deferred)
            histogram_emit(e, at, false);
        e->histograms[at].deferred = false;
    }
}

/* Notify Python of the records of `emit_deferred`, and report the latencies of the channels and pairs that have
 * ended. */
static void report_deferred(struct engine *e, uint64_t now)
{
    e->report_due = 0;
    joined_report(e, now);
    emit_histograms(e, true);
    pthread_mutex_lock(&e->lock);
    e->records_urgent = e->records.size > 0; /* if Python has already taken the records, do not notify it again */
    pthread_mutex_unlock(&e->lock);
}

void timer_expired(struct engine *e)
{
    uint64_t now = clock_ns(), count;
    ssize_t size = read(e->timer, &count, sizeof count); /* read(2) fails if the timer was set again after its expiry */

    (void)size;
    e->timer_set = 0;
    if (e->report_due && now >= e->report_due)
        report_deferred(e, now);
    if (e->histograms_due && now >= e->histograms_due) {
        e->histograms_due = 0;
        emit_histograms(e, false);
    }
    if (e->liveness_scan_due && now >= e->liveness_scan_due)
        liveness_scan(e, now);
    if (e->slow_scan_due && now >= e->slow_scan_due)
        pending_stop_slow(e, now);
}
