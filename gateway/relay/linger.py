"""Closes a client's socket after its backend has closed, without taking back what the client was sent.

The kernel answers unread or late bytes with a reset once their socket is closed, and the reset destroys what is still
on its way to the client (RFC 1122, section 4.2.2.13). So the socket stays open for a while: the client gets the rest
of the response and its end, and its own late bytes are read and dropped. A client whose bytes were dropped gets its
reset, but only once it has acknowledged everything.
"""

import asyncio
import fcntl
import socket
import struct
import termios
import time
from dataclasses import dataclass
from math import inf

from gateway.relay.readiness import READ, RelayLoop, readiness
from gateway.relay.sockets import finish, keep_after_close, reset, shut_write

LINGER = 60.0
"""Seconds without progress until a socket is closed: as long as the kernel waits for a client's end (tcp(7))."""
_MOST = 4096
"""Sockets at once; beyond, the oldest is closed."""
_LOOK = 0.25
_DISCARD = 256 * 1024
_TCP_CLOSE = 7
"""Of enum tcp_state (linux/tcp_states.h)."""


@dataclass
class _Lingering:
    """One socket.

    Args:
        sock: Its write side is shut.
        until: When to stop, in `time.monotonic()`.
        lost: Whether bytes of the client did not reach the backend.
        reading: Whether the client may still send.
        left: Bytes that the client had not acknowledged at the last look.
    """

    sock: socket.socket
    until: float
    lost: bool
    reading: bool = True
    left: float = inf


class Lingerer:
    """The sockets of one event loop that wait for the client's end.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sockets: dict[int, _Lingering] = {}
        self._looking = False
        self._scratch = bytearray(_DISCARD)

    def __len__(self) -> int:
        return len(self._sockets)

    def take(self, sock: socket.socket, *, lost: bool) -> None:
        """Take over `sock`: end its stream, and close it when the client has ended its own.

        After `LINGER` without an acknowledgement it is closed anyway: the kernel still delivers what it has, but one
        whose client must see a reset is reset.

        Args:
            sock: Non-blocking, watched by no one else.
            lost: Whether bytes of the client were lost, so that it must see a reset in the end.
        """
        shut_write(sock)
        if len(self._sockets) >= _MOST:
            self._close(next(iter(self._sockets)))
        keep_after_close(sock)
        fd = sock.fileno()
        self._sockets[fd] = _Lingering(sock, time.monotonic() + LINGER, lost)
        readiness().add(fd, lambda _: self._readable(fd), READ)
        if not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK, self._look)

    def close(self) -> None:
        """Leave every socket to the kernel, which still delivers what it has."""
        for each in self._sockets.values():
            finish(each.sock)
        self._sockets.clear()

    def _readable(self, fd: int) -> None:
        each = self._sockets[fd]
        try:
            count = each.sock.recv_into(self._scratch)
        except BlockingIOError:
            return
        except OSError:
            self._close(fd)
            return
        if count:
            each.lost = True
        elif each.lost:
            self._stop_reading(fd, each)
        else:
            self._close(fd)

    def _stop_reading(self, fd: int, each: _Lingering) -> None:
        if each.reading:
            each.reading = False
            readiness().remove(fd)

    def _close(self, fd: int) -> None:
        each = self._sockets.pop(fd)
        self._stop_reading(fd, each)
        if each.lost:
            reset(each.sock)
        else:
            finish(each.sock)

    def _look(self) -> None:
        now = time.monotonic()
        try:
            for fd, each in list(self._sockets.items()):
                if now >= each.until or _is_reset(each.sock) or (each.lost and _unacknowledged(each.sock) == 0):
                    self._close_unless_moving(fd, each, now)
        finally:
            self._looking = bool(self._sockets)
            if self._looking:
                self._loop.call_later(_LOOK, self._look)

    def _close_unless_moving(self, fd: int, each: _Lingering, now: float) -> None:
        left = _unacknowledged(each.sock)
        if each.lost and 0 < left < each.left and not _is_reset(each.sock):
            each.left, each.until = left, now + LINGER
        else:
            self._close(fd)


def lingerer() -> Lingerer:
    """The lingerer of the running loop."""
    loop = asyncio.get_running_loop()
    known: Lingerer | None = getattr(loop, "_gateway_lingerer", None)
    if known is None:
        known = loop._gateway_lingerer = Lingerer(loop)  # type: ignore[attr-defined] # noqa: SLF001
        if isinstance(loop, RelayLoop):
            loop.on_close.append(known.close)
    return known


def _is_reset(sock: socket.socket) -> bool:
    """Whether the connection is over for the kernel, which then keeps what was not acknowledged (tcp(7))."""
    if sock.family == socket.AF_UNIX:
        return False
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE


def _unacknowledged(sock: socket.socket) -> int:
    """Bytes sent that the peer's kernel has not acknowledged, the end of the stream included (tcp(7), SIOCOUTQ)."""
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])
