/* Detects whether a TCP socket has received the peer's FIN, and thus all data, before it failed.
 *
 * If a socket fails after splice(2) has written data to it, the kernel drops the error (ECONNRESET): later writes report
 * EPIPE, and reads report an end of stream, as after a FIN. The kernel counts a FIN as one received byte, but not as an
 * unread one, so its counters distinguish the two.
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "pair.h"

#define MAX_ATTEMPTS 16

enum tcp_state { STATE_ESTABLISHED = 1, STATE_CLOSE_WAIT = 8 }; /* linux/tcp_states.h */

static bool read_info(const struct side *s, struct tcp_info *info)
{
    socklen_t size = sizeof *info;

    memset(info, 0, sizeof *info);
    return getsockopt(s->fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0;
}

/* Return the number of received bytes that are not unread: those that were read, plus one for a FIN. Set the state.
 *
 * No system call returns all these values at one time: data can arrive between TCP_INFO and FIONREAD, and TCP_INFO reads
 * the state before it locks the socket. If nothing has changed after FIONREAD, the values belong together.
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

/* Start to detect a FIN. Return false if the socket has failed, or if data arrives too fast. A unix socket needs no
 * detection. */
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

/* Return whether the connection was reset before a FIN. Call it after the socket has failed, or at its end of stream. */
bool fin_missing(const struct side *s)
{
    uint64_t received = 0;
    uint8_t state = 0;

    return s->tracks_fin && counters(s, &state, &received) && received - s->read <= s->fin_baseline;
}
