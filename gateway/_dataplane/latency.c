/* Measures response latencies, and sets the timer of the native engine. Disables TCP_USER_TIMEOUT of a socket while
 * the remote end reads no data. */
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "listener.h"
#include "pair.h"

#define HISTOGRAM_DELAY (SECOND / 10)
/* The times of a scan for stalls, in nanoseconds. With a TCP_USER_TIMEOUT of 60 s: 1 s, 20 s and 5 s. */
#define STALL_SCAN_INTERVAL(e) ((e)->user_timeout * (SECOND / 1000) / 60)
#define STALLED_AFTER(e) ((e)->user_timeout * (SECOND / 1000) / 3)
/* Acknowledgments within this time after data began to wait are ignored, because they can acknowledge data instead of
 * window probes. */
#define ACK_MARGIN(e) ((e)->user_timeout * (SECOND / 1000) / 12)
/* Each scan checks one part of the descriptors, so that a scan of many sockets takes little time. */
#define STALL_SCAN_PARTS 10
/* If the remote end has not acknowledged this number of successive window probes, it does not acknowledge probes. A
 * single probe can be lost. */
#define MAX_UNANSWERED_PROBES 2

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

void set_user_timeout(int fd, uint32_t milliseconds)
{
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds, sizeof milliseconds);
}

static void schedule_stall_scan(struct engine *e, uint64_t now)
{
    if (!e->stall_scan_due)
        e->stall_scan_due = now + STALL_SCAN_INTERVAL(e);
}

static void restore_user_timeout(struct engine *e, struct stall *s, int fd)
{
    if (s->suspended)
        set_user_timeout(fd, e->user_timeout);
    s->suspended = false;
}

/* Check a TCP socket in the next scans, because data was written to it. Clear `watched` before closing the socket. */
void stall_watch(struct engine *e, struct stall *s)
{
    if (s->watched)
        return;
    s->watched = true;
    s->since = clock_ns();
    schedule_stall_scan(e, s->since);
}

/* Disable TCP_USER_TIMEOUT while data waits, no data is in flight, and the remote end acknowledges window probes.
 *
 * With TCP_USER_TIMEOUT, the kernel closes a connection if the receive window of the remote end is smaller than the next
 * segment for longer than the timeout. RFC 9293, section 3.8.6.1, requires the sender to keep such a connection open.
 *
 * Do not restore the timeout when the remote end reads a part of the data: in many cases, the kernel still measures the
 * time since the first probe, and would close the connection immediately.
 */
static void check_stalled(struct engine *e, struct stall *s, int fd, uint64_t now)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    uint64_t since_acknowledgment, waiting = now - s->since;

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
        return;
    since_acknowledgment = info.tcpi_last_ack_recv * (SECOND / 1000);
    if (!info.tcpi_notsent_bytes) {
        restore_user_timeout(e, s, fd);
        s->watched = false;
    } else if (since_acknowledgment > e->user_timeout * (SECOND / 1000) &&
               (info.tcpi_unacked || info.tcpi_probes >= MAX_UNANSWERED_PROBES)) {
        restore_user_timeout(e, s, fd);
    } else if (!s->suspended && !info.tcpi_unacked && waiting >= STALLED_AFTER(e) &&
               since_acknowledgment + ACK_MARGIN(e) < waiting) {
        s->suspended = true;
        set_user_timeout(fd, 0);
    }
}

static void scan_socket(struct engine *e, struct stall *s, int fd, uint64_t now)
{
    if (!s->watched)
        return;
    schedule_stall_scan(e, now);
    if (fd % STALL_SCAN_PARTS == e->stall_part)
        check_stalled(e, s, fd, now);
}

static void scan_stalled(struct engine *e, uint64_t now)
{
    e->stall_scan_due = 0;
    e->stall_part = (e->stall_part + 1) % STALL_SCAN_PARTS;
    for (struct channel *c = e->channels; c; c = c->next)
        scan_socket(e, &c->stall, c->fd, now);
    for (struct pair *p = e->pairs; p; p = p->next) {
        scan_socket(e, &p->client.stall, p->client.fd, now);
        scan_socket(e, &p->backend.stall, p->backend.fd, now);
    }
}

/* Set the timer to the earliest scheduled time. */
void timer_arm(struct engine *e)
{
    uint64_t due = e->histograms_due;
    struct itimerspec when = {0};

    if (e->stall_scan_due && (!due || e->stall_scan_due < due))
        due = e->stall_scan_due;
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
    if (e->stall_scan_due && now >= e->stall_scan_due)
        scan_stalled(e, now);
    if (e->slow_scan_due && now >= e->slow_scan_due)
        pending_stop_slow(e, now);
}
