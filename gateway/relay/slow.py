"""Patience with peers that are alive and do not read: TCP_USER_TIMEOUT ends those too.

The kernel gives up a peer whose window has been shut for that long, although it answers every probe (tcp(7)). A
consumer may well pause for minutes, and RFC 9293, section 3.8.6.1, has a sender wait while it is answered. So where
a socket has not taken anything for a while, and its peer has acknowledged something meanwhile, the limit is lifted
until it takes something again; a peer that dies then is noticed by the kernel's unanswered probes.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.relay import sockets

_LOOK = 10.0
_FULL_FOR = 30.0
_MARGIN = 5.0
"""Seconds after which what is acknowledged is a probe, and not what was sent before the window was shut."""
_LAST_ACK_AT = 56
"""Of `tcpi_last_ack_recv`, in milliseconds, in `struct tcp_info` (linux/tcp.h)."""


class SlowPeers:
    """The sockets of one loop that take nothing for now."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._full: dict[int, float] = {}
        """By descriptor, since when."""
        self._lifted: set[int] = set()
        self._looking = False

    def bear_with(self, fd: int) -> None:
        """The socket takes nothing more for now."""
        self._full[fd] = time.monotonic()
        if not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK, self._look)

    def expect_again(self, fd: int) -> None:
        """It takes something again, or is about to be closed."""
        self._full.pop(fd, None)
        if fd in self._lifted:
            self._lifted.discard(fd)
            _set_limit(fd, sockets.USER_TIMEOUT_MS)

    def _look(self) -> None:
        now = time.monotonic()
        for fd, since in self._full.items():
            full_for = now - since
            if full_for >= _FULL_FOR and fd not in self._lifted and _acknowledged(fd) < full_for - _MARGIN:
                self._lifted.add(fd)
                _set_limit(fd, 0)
        self._looking = bool(self._full)
        if self._looking:
            self._loop.call_later(_LOOK, self._look)


def slow_peers() -> SlowPeers:
    """Those of the running loop."""
    loop = asyncio.get_running_loop()
    known: SlowPeers | None = getattr(loop, "_gateway_slow_peers", None)
    if known is None:
        known = loop._gateway_slow_peers = SlowPeers(loop)  # type: ignore[attr-defined] # noqa: SLF001
    return known


def _acknowledged(fd: int) -> float:
    """Seconds since the peer last acknowledged anything."""
    with _borrowed(fd) as sock:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK_AT + 4)
    return float(struct.unpack_from("=I", told, _LAST_ACK_AT)[0]) / 1000


def _set_limit(fd: int, milliseconds: int) -> None:
    with _borrowed(fd) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


@contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()
