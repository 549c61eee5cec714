/* Detects remote ends that no longer acknowledge data, and breaks the connections to them.
 *
 * TCP_USER_TIMEOUT (tcp(7)) is not suitable: with this option, the kernel also closes the connection of a remote end that
 * is alive but reads slowly. RFC 9293, section 3.8.6.1, requires the sender to keep a connection open while the remote
 * end acknowledges window probes. The kernel measures the time since the first window probe, and in many cases continues
 * this measurement after the remote end has read all data.
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "pair.h"

/* The interval of the scans, in nanoseconds: 1 s if a remote end is dead after 60 s. */
#define SCAN_INTERVAL(e) ((e)->dead_after / 60)
/* Each scan checks one part of the descriptors, so that a scan of many sockets takes little time. */
#define SCAN_PARTS 10
/* If the remote end has not acknowledged this number of successive window probes or retransmissions, it acknowledges
 * none. Two of them can be lost. */
#define MAX_UNANSWERED 3
/* The time limit while fewer probes and retransmissions are known to be unanswered: 370 s. If the remote end discards data
 * because its window is full, the kernel retransmits the data without counting (tcp_retransmit_timer in
 * net/ipv4/tcp_timer.c). The longest interval between two retransmissions is 120 s (TCP_RTO_MAX). */
#define UNCOUNTED_LIMIT(e) ((e)->dead_after * 37 / 6)

/* States of a TCP connection (net/tcp_states.h). */
#define LAST_ACK 9
#define CLOSING 11

static void schedule_scan(struct engine *e, uint64_t now)
{
    if (!e->liveness_scan_due)
        e->liveness_scan_due = now + SCAN_INTERVAL(e);
}

/* Check a TCP socket in the next scans, because data was written to it. Clear `watched` before closing the socket. */
void liveness_watch(struct engine *e, struct liveness *l, bool is_unix)
{
    if (l->watched || is_unix)
        return;
    l->watched = true;
    l->since = l->checked = clock_ns();
    l->retransmits = 0;
    schedule_scan(e, l->since);
}

/* Break a connection. The kernel sends a reset, and reports ECONNRESET to the native engine (connect(2), AF_UNSPEC). */
static void disconnect(int fd)
{
    const struct sockaddr none = {.sa_family = AF_UNSPEC};

    connect(fd, &none, sizeof none);
}

static void check_liveness(struct engine *e, struct liveness *l, int fd, uint64_t now)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    bool fins;
    uint64_t silent;
    int unanswered;

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
        return;
    if (!info.tcpi_notsent_bytes && !info.tcpi_unacked) {
        l->watched = false;
        return;
    }
    if (!info.tcpi_unacked && !info.tcpi_probes)
        l->since = now;
    silent = info.tcpi_last_ack_recv * (SECOND / 1000);
    /* The kernel resets the number of retransmissions only when the remote end acknowledges new data. Therefore, count
     * from the last check that found a new acknowledgment. */
    if (silent <= now - l->checked || info.tcpi_retransmits < l->retransmits)
        l->retransmits = info.tcpi_retransmits;
    l->checked = now;
    /* The last acknowledgment can be old, because the remote end had nothing to acknowledge before `since`. */
    if (silent > now - l->since)
        silent = now - l->since;
    unanswered = info.tcpi_unacked ? info.tcpi_retransmits - l->retransmits : 0;
    if (info.tcpi_probes > unanswered)
        unanswered = info.tcpi_probes;
    /* After both FINs, the kernel does not report that `disconnect` broke the connection. The kernel itself breaks the
     * connection after 15 retransmissions (tcp_retries2 in tcp(7)). */
    fins = info.tcpi_state == LAST_ACK || info.tcpi_state == CLOSING;
    if (!fins && silent >= (unanswered >= MAX_UNANSWERED ? e->dead_after : UNCOUNTED_LIMIT(e)))
        disconnect(fd);
}

static void scan_socket(struct engine *e, struct liveness *l, int fd, uint64_t now)
{
    if (!l->watched)
        return;
    schedule_scan(e, now);
    if (fd % SCAN_PARTS == e->liveness_part)
        check_liveness(e, l, fd, now);
}

void liveness_scan(struct engine *e, uint64_t now)
{
    e->liveness_scan_due = 0;
    e->liveness_part = (e->liveness_part + 1) % SCAN_PARTS;
    for (struct channel *c = e->channels; c; c = c->next)
        scan_socket(e, &c->liveness, c->fd, now);
    for (struct pair *p = e->pairs; p; p = p->next) {
        scan_socket(e, &p->client.liveness, p->client.fd, now);
        scan_socket(e, &p->backend.liveness, p->backend.fd, now);
    }
}
