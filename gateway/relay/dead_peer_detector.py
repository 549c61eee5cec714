"""Detects peers that no longer acknowledge data, and breaks the connections to them.

TCP_USER_TIMEOUT (tcp(7)) is not suitable: with this option, the kernel also closes the connection of a peer that is
alive but reads slowly. RFC 9293, section 3.8.6.1, requires the sender to keep a connection open while the peer
acknowledges window probes. The kernel measures the time since the first window probe, and in many cases continues
this measurement after the peer has read all data.
"""

import asyncio
import socket
import struct
import time
import weakref
from dataclasses import dataclass

from gateway.relay.per_loop_instances import per_loop
from gateway.relay.sockets import disconnect

DEAD_AFTER = 60.0
"""Break the connection of a peer that acknowledges no data for this number of seconds."""
_SCAN_INTERVAL = 1.0
_PARTS = 10
"""Number of scans in which each socket is checked once. Thus, a scan of many sockets takes little time."""
_MAX_UNANSWERED = 3
"""If the peer has not acknowledged this number of successive window probes or retransmissions, it acknowledges none.
Two of them can be lost."""
_UNCOUNTED_FACTOR = 37 / 6
"""Multiply `DEAD_AFTER` by this number, to 370 seconds, while fewer probes or retransmissions are known to be
unanswered. If the peer discards data because its window is full, the kernel retransmits the data without counting
(tcp_retransmit_timer in net/ipv4/tcp_timer.c). The longest interval between two retransmissions is 120 seconds
(TCP_RTO_MAX)."""
_FIN_EXCHANGED = (9, 11)
"""TCP_LAST_ACK and TCP_CLOSING (net/tcp_states.h). In these states, the kernel does not report that `disconnect`
broke the connection. The kernel itself breaks the connection after 15 retransmissions (tcp_retries2 in tcp(7))."""
_TCP_INFO = struct.Struct("=BxBB20xI28xI84xI")
"""The fields `tcpi_state`, `tcpi_retransmits`, `tcpi_probes`, `tcpi_unacked` (in segments), `tcpi_last_ack_recv` (in
milliseconds) and `tcpi_notsent_bytes` of `struct tcp_info` (linux/tcp.h)."""


@dataclass
class _WatchedSocket:
    """A watched socket.

    Args:
        reference: A weak reference to the socket.
        since: Monotonic time, in seconds, of the last check that found neither data in flight nor unacknowledged
            probes. Before the first such check, the start of the watch.
        checked_at: Monotonic time of the last check, in seconds.
        retransmits: Number of retransmissions at the last check that found a new acknowledgment.
    """

    reference: "weakref.ref[socket.socket]"
    since: float
    checked_at: float = 0.0
    retransmits: int = 0

    def is_dead(self, sock: socket.socket, now: float) -> bool:
        """Return whether the peer has not acknowledged data or window probes for `DEAD_AFTER` seconds.

        Raises:
            OSError: The kernel cannot return TCP_INFO.
        """
        tcp_info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        state, retransmits, probes, unacknowledged, milliseconds, waiting = _TCP_INFO.unpack(
            tcp_info.ljust(_TCP_INFO.size, b"\0")
        )
        since_ack = milliseconds / 1000
        if not (unacknowledged or (waiting and probes)):
            self.since = now
        # The kernel resets the number of retransmissions only when the peer acknowledges new data. Therefore, count
        # from the last check that found a new acknowledgment.
        if since_ack <= now - self.checked_at or retransmits < self.retransmits:
            self.retransmits = retransmits
        self.checked_at = now
        # The last acknowledgment can be old, because the peer had nothing to acknowledge before `since`.
        silent_for = min(since_ack, now - self.since)
        is_counted = max(retransmits - self.retransmits if unacknowledged else 0, probes) >= _MAX_UNANSWERED
        limit = DEAD_AFTER * (1 if is_counted else _UNCOUNTED_FACTOR)
        return state not in _FIN_EXCHANGED and silent_for >= limit


class DeadPeerDetector:
    """Checks the sockets of one event loop, and breaks the connections to dead peers.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[int, _WatchedSocket] = {}
        """The watched sockets, by descriptor."""
        self._part = 0
        self._scanning = False

    def watch(self, sock: socket.socket) -> None:
        """Watch a socket until it is closed, or `unwatch` is called. Do nothing if it is not a TCP socket.

        If the peer is dead, the socket fails with ECONNRESET; see `disconnect`.
        """
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        self._watched[sock.fileno()] = _WatchedSocket(weakref.ref(sock), time.monotonic())
        if not self._scanning:
            self._scanning = True
            self._loop.call_later(_SCAN_INTERVAL, self._scan)

    def unwatch(self, sock: socket.socket) -> None:
        """Stop watching a socket. Call this before closing the socket."""
        watched = self._watched.get(sock.fileno())
        if watched is not None and watched.reference() is sock:
            del self._watched[sock.fileno()]

    def _scan(self) -> None:
        now = time.monotonic()
        self._part = (self._part + 1) % _PARTS
        try:
            for fd in [each for each in self._watched if each % _PARTS == self._part]:
                self._check(fd, now)
        finally:
            self._scanning = bool(self._watched)
            if self._scanning:
                self._loop.call_later(_SCAN_INTERVAL, self._scan)

    def _check(self, fd: int, now: float) -> None:
        watched = self._watched[fd]
        sock = watched.reference()
        if sock is None or sock.fileno() != fd:
            del self._watched[fd]
        elif watched.is_dead(sock, now):
            disconnect(sock)
            del self._watched[fd]


@per_loop
def dead_peer_detector(loop: asyncio.AbstractEventLoop) -> DeadPeerDetector:
    """Return the `DeadPeerDetector` of the running loop."""
    return DeadPeerDetector(loop)
