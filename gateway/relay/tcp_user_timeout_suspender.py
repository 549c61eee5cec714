"""Suspends TCP_USER_TIMEOUT of sockets while their peers are alive but do not read data.

A client can legitimately stop reading for minutes. A sender must keep the connection open while the client
acknowledges window probes (RFC 9293, section 3.8.6.1). However, the kernel closes the connection if the client's
receive window is zero for longer than TCP_USER_TIMEOUT (tcp(7)).

Therefore, this module disables the timeout of a socket if the peer has acknowledged none of the waiting data for 20
seconds, but still acknowledges probes. When the peer acknowledges data again, or no longer acknowledges probes, the
module restores the timeout. All waiting data can fit into the kernel's send buffer, so the module reads the kernel's
counters instead of waiting until the socket accepts no data.
"""

import asyncio
import socket
import struct
import time
import weakref
from dataclasses import dataclass

from gateway.relay import sockets
from gateway.relay.per_loop_instances import per_loop

_SCAN_INTERVAL = 1.0
_PARTS = 10
"""Number of scans in which each socket is checked once. Thus, a scan of many sockets takes little time."""
_STALLED_AFTER = 20.0
"""Suspend the timeout only after the peer has acknowledged no data for this number of seconds."""
_ACK_MARGIN = 5.0
"""An acknowledgment belongs to a window probe if it arrives more than this number of seconds after the peer stopped
acknowledging data. An earlier acknowledgment might belong to data that was sent before the window closed."""
_NO_ACK_FOR = 150.0
"""The peer no longer acknowledges probes if the last acknowledgment is older than this number of seconds. The longest
interval between two probes is 120 seconds."""
_TCP_INFO = struct.Struct("=56xI60xQ16xI")
"""The fields `tcpi_last_ack_recv` (in milliseconds), `tcpi_bytes_acked` and `tcpi_notsent_bytes` of `struct tcp_info`
(linux/tcp.h)."""


@dataclass
class _WatchedSocket:
    """A socket, and the result of its last scan.

    Args:
        reference: Refers to the socket.
        since: Monotonic time, in seconds, of the last scan that found newly acknowledged data, or no waiting data.
            Before the first such scan, the start of the watch.
        acknowledged: Number of bytes that the peer had acknowledged at the last scan.
        is_suspended: Whether TCP_USER_TIMEOUT is disabled.
    """

    reference: "weakref.ref[socket.socket]"
    since: float
    acknowledged: int = -1
    is_suspended: bool = False

    def check(self, sock: socket.socket, now: float) -> None:
        """Suspend or restore the timeout, depending on what the peer has acknowledged."""
        tcp_info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        milliseconds, acknowledged, waiting = _TCP_INFO.unpack(tcp_info.ljust(_TCP_INFO.size, b"\0"))
        since_ack, stalled_for = milliseconds / 1000, now - self.since
        if not waiting or acknowledged != self.acknowledged:
            self.since, self.acknowledged = now, acknowledged
            self.suspend(sock, on=False)
        elif since_ack > _NO_ACK_FOR:
            self.suspend(sock, on=False)
        elif stalled_for >= _STALLED_AFTER and since_ack < stalled_for - _ACK_MARGIN:
            self.suspend(sock, on=True)

    def suspend(self, sock: socket.socket, *, on: bool) -> None:
        """Disable the timeout if `on` is true; otherwise, restore it. Do nothing if it already has this state."""
        if on != self.is_suspended:
            self.is_suspended = on
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0 if on else sockets.USER_TIMEOUT_MS)


class TcpUserTimeoutSuspender:
    """Suspends TCP_USER_TIMEOUT of the sockets of one event loop while their peers do not read data.

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
        """Watch a socket until it is closed, or `unwatch` is called. Do nothing if it is not a TCP socket."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        self._watched[sock.fileno()] = _WatchedSocket(weakref.ref(sock), time.monotonic())
        if not self._scanning:
            self._scanning = True
            self._loop.call_later(_SCAN_INTERVAL, self._scan)

    def unwatch(self, sock: socket.socket) -> None:
        """Restore the timeout of a socket, and no longer watch the socket. Call this before closing the socket."""
        watched = self._watched.get(sock.fileno())
        if watched is not None and watched.reference() is sock:
            del self._watched[sock.fileno()]
            watched.suspend(sock, on=False)

    def _scan(self) -> None:
        now = time.monotonic()
        self._part = (self._part + 1) % _PARTS
        for fd in [each for each in self._watched if each % _PARTS == self._part]:
            watched = self._watched[fd]
            sock = watched.reference()
            if sock is None or sock.fileno() != fd:
                del self._watched[fd]
            else:
                watched.check(sock, now)
        self._scanning = bool(self._watched)
        if self._scanning:
            self._loop.call_later(_SCAN_INTERVAL, self._scan)


@per_loop
def user_timeout_suspender(loop: asyncio.AbstractEventLoop) -> TcpUserTimeoutSuspender:
    """Return the `TcpUserTimeoutSuspender` of the running loop."""
    return TcpUserTimeoutSuspender(loop)
