/* Detects whether a TCP socket has received the peer's FIN, and thus all data, before it failed.
 *
 * If a socket fails after splice(2) has written data to it, the kernel drops the error (ECONNRESET): later writes report
 * EPIPE, and reads report an end of stream, as after a FIN. The kernel counts a FIN as one received byte, but not as an
 * unread one, so its counters distinguish the two.
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "pair.h"

enum tcp_state { STATE_ESTABLISHED = 1, STATE_CLOSE_WAIT = 8 }; /* linux/tcp_states.h */

/* Return the number of received bytes that are not unread: those that were read, plus one for a FIN. Set the state. */
static bool counters(const struct side *s, uint8_t *state, uint64_t *received)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    int unread = 0;

    if (getsockopt(s->fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0 || ioctl(s->fd, FIONREAD, &unread) < 0)
        return false;
    *state = info.tcpi_state;
    *received = info.tcpi_bytes_received - (uint64_t)unread;
    return true;
}

/* Start to detect a FIN. Return false if the socket has already failed. A unix socket needs no detection. */
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
