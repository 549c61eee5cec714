"""Suspends TCP_USER_TIMEOUT of sockets while their peers are alive but do not read data.

A client can legitimately stop reading for minutes, or read slowly. A sender must keep the connection open while the
client acknowledges window probes (RFC 9293, section 3.8.6.1). However, the kernel closes the connection if the
client's receive window is smaller than the next segment for longer than TCP_USER_TIMEOUT (tcp(7)).

Therefore, this module disables the timeout of a socket if data has been waiting in the kernel's send buffer for 20
seconds, no data is in flight, and the peer acknowledges window probes. A socket still accepts data if all waiting
data fits into the send buffer, so the module reads the kernel's counters.

The module restores the timeout when no data waits, or when the peer no longer acknowledges data or probes. It does
not restore the timeout when the peer reads a part of the data: in many cases, the kernel still measures the time
since the first probe, and would close the connection immediately.
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
"""Suspend the timeout only after data has been waiting for this number of seconds."""
_ACK_MARGIN = 5.0
"""An acknowledgment belongs to a window probe if it arrives more than this number of seconds after data began to
wait. An earlier acknowledgment might belong to data that was sent before the window closed."""
_MAX_UNANSWERED_PROBES = 2
"""If the peer has not acknowledged this number of successive probes, the peer does not acknowledge probes. A single
probe can be lost."""
_TCP_INFO = struct.Struct("=3xB20xI28xI84xI")
"""The fields `tcpi_probes`, `tcpi_unacked` (in segments), `tcpi_last_ack_recv` (in milliseconds) and
`tcpi_notsent_bytes` of `struct tcp_info` (linux/tcp.h)."""


@dataclass
class _WatchedSocket:
    """A watched socket.

    Args:
        reference: A weak reference to the socket.
        since: Monotonic time, in seconds, of the last scan that found no waiting data. Before the first such scan,
            the start of the watch.
        is_suspended: Whether TCP_USER_TIMEOUT is disabled.
    """

    reference: "weakref.ref[socket.socket]"
    since: float
    is_suspended: bool = False

    def check(self, sock: socket.socket, now: float) -> None:
        """Suspend or restore the timeout, depending on the kernel's counters."""
        tcp_info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        probes, in_flight, milliseconds, waiting = _TCP_INFO.unpack(tcp_info.ljust(_TCP_INFO.size, b"\0"))
        since_ack, waiting_for = milliseconds / 1000, now - self.since
        if not waiting:
            self.since = now
            self.suspend(sock, on=False)
        elif since_ack > sockets.USER_TIMEOUT_MS / 1000 and (in_flight or probes >= _MAX_UNANSWERED_PROBES):
            self.suspend(sock, on=False)
        elif not in_flight and waiting_for >= _STALLED_AFTER and since_ack < waiting_for - _ACK_MARGIN:
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
        """Stop watching a socket. Call this before closing the socket.

        Do not restore the timeout: otherwise, the kernel could discard the data that the peer has not read yet.
        """
        watched = self._watched.get(sock.fileno())
        if watched is not None and watched.reference() is sock:
            del self._watched[sock.fileno()]

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
