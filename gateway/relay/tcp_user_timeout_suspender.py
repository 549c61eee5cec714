"""Suspends TCP_USER_TIMEOUT of sockets while their peers are alive but do not read data.

A client can legitimately stop reading for minutes. A sender must keep the connection open while the client
acknowledges window probes (RFC 9293, section 3.8.6.1). However, the kernel closes the connection if the client's
receive window is zero for longer than TCP_USER_TIMEOUT (tcp(7)).

Therefore, this module disables the timeout of a socket if its peer has acknowledged no data for 30 seconds, but still
acknowledges probes. When the peer acknowledges data again, the module restores the timeout.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.relay import sockets
from gateway.relay.per_loop_instances import per_loop

_SCAN_INTERVAL = 10.0
_STALLED_AFTER = 30.0
"""Suspend the timeout only after the peer has acknowledged no data for this number of seconds."""
_ACK_MARGIN = 5.0
"""An acknowledgment belongs to a window probe if it arrives more than this number of seconds after the peer stopped
acknowledging data. An earlier acknowledgment might belong to data that was sent before the window closed."""
_TCP_INFO = struct.Struct("=56xI60xQ")
"""The fields `tcpi_last_ack_recv`, in milliseconds, and `tcpi_bytes_acked` of `struct tcp_info` (linux/tcp.h)."""


@dataclass
class _BlockedSocket:
    """A socket whose send buffer is full.

    Args:
        since: Monotonic time, in seconds, at which the buffer was full, or at which a scan found acknowledged data.
        acknowledged: Number of bytes that the peer had acknowledged at the last scan; -1 before the first scan.
    """

    since: float
    acknowledged: int = -1


class TcpUserTimeoutSuspender:
    """Suspends TCP_USER_TIMEOUT of the sockets of one event loop while their peers do not read data.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._blocked: dict[int, _BlockedSocket] = {}
        """The blocked sockets, by descriptor."""
        self._suspended: set[int] = set()
        """Descriptors whose TCP_USER_TIMEOUT is disabled."""
        self._scanning = False

    def mark_blocked(self, fd: int) -> None:
        """Record that the socket `fd` currently accepts no data, because its send buffer is full."""
        self._blocked[fd] = _BlockedSocket(time.monotonic())
        if not self._scanning:
            self._scanning = True
            self._loop.call_later(_SCAN_INTERVAL, self._scan)

    def mark_progress(self, fd: int) -> None:
        """Record that the socket `fd` accepts data again or is about to be closed."""
        self._blocked.pop(fd, None)
        self._restore(fd)

    def _restore(self, fd: int) -> None:
        if fd in self._suspended:
            self._suspended.discard(fd)
            _set_user_timeout(fd, sockets.USER_TIMEOUT_MS)

    def _scan(self) -> None:
        now = time.monotonic()
        for fd, blocked in self._blocked.items():
            since_ack, acknowledged = _acknowledgments(fd)
            if acknowledged != blocked.acknowledged:
                blocked.since, blocked.acknowledged = now, acknowledged
                self._restore(fd)
                continue
            blocked_for = now - blocked.since
            if blocked_for >= _STALLED_AFTER and fd not in self._suspended and since_ack < blocked_for - _ACK_MARGIN:
                self._suspended.add(fd)
                _set_user_timeout(fd, 0)
        self._scanning = bool(self._blocked)
        if self._scanning:
            self._loop.call_later(_SCAN_INTERVAL, self._scan)


@per_loop
def user_timeout_suspender(loop: asyncio.AbstractEventLoop) -> TcpUserTimeoutSuspender:
    """Return the `TcpUserTimeoutSuspender` of the running loop."""
    return TcpUserTimeoutSuspender(loop)


def _acknowledgments(fd: int) -> tuple[float, int]:
    """Return the seconds since the last acknowledgment, and the number of bytes that the peer has acknowledged."""
    with _borrowed(fd) as sock:
        tcp_info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    since_ack, acknowledged = _TCP_INFO.unpack(tcp_info.ljust(_TCP_INFO.size, b"\0"))
    return since_ack / 1000, acknowledged


def _set_user_timeout(fd: int, milliseconds: int) -> None:
    with _borrowed(fd) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


@contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """Yield a socket object for `fd`. The object does not close `fd`."""
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()
