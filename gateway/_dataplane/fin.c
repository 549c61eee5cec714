/* Detects whether a TCP socket received a FIN from the remote end, and thus all data, before the socket failed.
 *
 * The detection is necessary because splice(2) can hide a reset. If the remote end resets the connection after
 * splice(2) has written some data, the kernel drops the error (ECONNRESET). Later calls then behave as after a FIN:
 * writes report EPIPE, and reads report the end of the stream.
 *
 * The kernel counts a FIN as one received byte (TCP_INFO), but not as an unread byte (FIONREAD). Therefore, a FIN
 * increases the difference between the received bytes and the sum of the read and unread bytes by one.
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "pair.h"

#define MAX_ATTEMPTS 16

enum tcp_state { STATE_ESTABLISHED = 1, STATE_CLOSE_WAIT = 8 }; /* the values in the kernel's net/tcp_states.h */

static bool read_info(const struct side *s, struct tcp_info *info)
{
    socklen_t size = sizeof *info;

    memset(info, 0, sizeof *info);
    return getsockopt(s->fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0;
}

/* Set `state` to the TCP state, and `received` to the number of received bytes minus the unread bytes. A FIN counts
 * as one byte. Return false if the values cannot be read.
 *
 * The values can change during an attempt: data can arrive between TCP_INFO and FIONREAD, and TCP_INFO reads the
 * state before it locks the socket. Therefore, each attempt reads TCP_INFO before and after FIONREAD, and succeeds
 * only if both results are equal.
 */
static bool counters(const struct side *s, uint8_t *state, uint64_t *received)
{
    struct tcp_info before, after;
    int unread;

    for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
        if (!read_info(s, &before) || ioctl(s->fd, FIONREAD, &unread) < 0 || !read_info(s, &after))
            return false;
        if (before.tcpi_state == after.tcpi_state && before.tcpi_bytes_received == after.tcpi_bytes_received) {
            *state = after.tcpi_state;
            *received = after.tcpi_bytes_received - (uint64_t)unread;
            return true;
        }
    }
    return false;
}

/* Start to detect a FIN. A unix socket needs no detection. Return false if a TCP socket has failed, or if `counters` fails
 * because data arrives during every attempt. */
bool fin_track(struct side *s)
{
    uint64_t received = 0;
    uint8_t state = 0;

    if (s->is_unix || s->tracks_fin)
        return true;
    if (!counters(s, &state, &received) || (state != STATE_ESTABLISHED && state != STATE_CLOSE_WAIT))
        return false;
    s->fin_baseline = received - s->read - (state == STATE_CLOSE_WAIT);
    s->tracks_fin = true;
    return true;
}

/* Return whether the remote end has reset the connection without sending a FIN first. Call this function only after
 * the socket has failed, or after a read has reported the end of the stream. */
bool fin_missing(const struct side *s)
{
    uint64_t received = 0;
    uint8_t state = 0;

    return s->tracks_fin && counters(s, &state, &received) && received - s->read <= s->fin_baseline;
}
