"""Suspends TCP_USER_TIMEOUT of sockets while their peers are alive but do not read data.

A client can legitimately stop reading for minutes. A sender must keep the connection open while the client
acknowledges window probes (RFC 9293, section 3.8.6.1). However, the kernel closes the connection if the client's
receive window is zero for longer than TCP_USER_TIMEOUT (tcp(7)).

Therefore, this module disables the timeout of a socket that has accepted no data for 30 seconds, if the peer still
acknowledges probes. When the socket accepts data again, the module restores the timeout.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.relay import sockets
from gateway.relay.per_loop_instances import per_loop

_SCAN_INTERVAL = 10.0
_STALLED_AFTER = 30.0
"""Suspend the timeout only after the socket has accepted no data for this number of seconds."""
_ACK_MARGIN = 5.0
"""An acknowledgment belongs to a window probe if it arrives more than this number of seconds after the socket stopped
accepting data. An earlier acknowledgment might belong to data that was sent before the window closed."""
_LAST_ACK_OFFSET = 56
"""Byte offset of `tcpi_last_ack_recv` in `struct tcp_info` (linux/tcp.h). This field contains milliseconds."""


class TcpUserTimeoutSuspender:
    """Suspends TCP_USER_TIMEOUT of the sockets of one event loop while their peers do not read data.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._blocked_since: dict[int, float] = {}
        """Monotonic time, in seconds, at which each descriptor stopped accepting data."""
        self._suspended: set[int] = set()
        """Descriptors whose TCP_USER_TIMEOUT is disabled."""
        self._scanning = False

    def mark_blocked(self, fd: int) -> None:
        """Record that the socket `fd` currently accepts no data, because its send buffer is full."""
        self._blocked_since[fd] = time.monotonic()
        if not self._scanning:
            self._scanning = True
            self._loop.call_later(_SCAN_INTERVAL, self._scan)

    def mark_progress(self, fd: int) -> None:
        """Record that the socket `fd` accepts data again or is about to be closed."""
        self._blocked_since.pop(fd, None)
        if fd in self._suspended:
            self._suspended.discard(fd)
            _set_user_timeout(fd, sockets.USER_TIMEOUT_MS)

    def _scan(self) -> None:
        now = time.monotonic()
        for fd, since in self._blocked_since.items():
            blocked_for = now - since
            if (
                blocked_for >= _STALLED_AFTER
                and fd not in self._suspended
                and _seconds_since_ack(fd) < blocked_for - _ACK_MARGIN
            ):
                self._suspended.add(fd)
                _set_user_timeout(fd, 0)
        self._scanning = bool(self._blocked_since)
        if self._scanning:
            self._loop.call_later(_SCAN_INTERVAL, self._scan)


@per_loop
def user_timeout_suspender(loop: asyncio.AbstractEventLoop) -> TcpUserTimeoutSuspender:
    """Return the `TcpUserTimeoutSuspender` of the running loop."""
    return TcpUserTimeoutSuspender(loop)


def _seconds_since_ack(fd: int) -> float:
    with _borrowed(fd) as sock:
        tcp_info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK_OFFSET + 4)
    return float(struct.unpack_from("=I", tcp_info, _LAST_ACK_OFFSET)[0]) / 1000


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
