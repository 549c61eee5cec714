"""Keeps a client's socket open after the backend has closed its connection, until the client has received all data.

If a socket is closed with unread data, or receives data after the close, the kernel sends a reset. The reset discards
data that the client has not received (RFC 1122, section 4.2.2.13). Therefore, the socket stays open for a while: the
client receives the rest of the response and end-of-file, and data from the client is discarded. If data was
discarded, the socket is closed with a reset after the client has acknowledged the whole response.
"""

import asyncio
import fcntl
import socket
import struct
import termios
import time
from dataclasses import dataclass

from gateway.relay.dead_peer_detector import dead_peer_detector
from gateway.relay.event_loop import RelayEventLoop
from gateway.relay.fd_poller import READ, poller
from gateway.relay.per_loop_instances import per_loop
from gateway.relay.sockets import close_gracefully, deliver_after_close, reset, shutdown_write

LINGER_TIMEOUT = 60.0
"""Default time limit in seconds for a lingering socket: the kernel's default tcp_fin_timeout (tcp(7))."""
_MAX_PAUSE = 900.0
"""Seconds after which a socket is closed although its client has not acknowledged all data."""
_MAX_SOCKETS = 4096
"""Maximum number of lingering sockets per event loop. At this limit, the oldest socket is closed for each new one."""
_SCAN_INTERVAL = 0.25
_DISCARD_SIZE = 256 * 1024
_TCP_CLOSE = 7
"""The value of TCP_CLOSE in the kernel's net/tcp_states.h."""


@dataclass
class _LingeringSocket:
    """A client socket that `LingeringCloser` closes later; see `LingeringCloser.close_later`.

    Args:
        sock: The socket. Its write side has been shut down.
        deadline: Monotonic time at which to close the socket, in seconds.
        reset_after: Whether to close the socket with a reset. True if data from the client did not reach the backend.
        progress_at: Monotonic time, in seconds, at which `unacknowledged` last changed.
        unacknowledged: Number of bytes that the client had not acknowledged at the last deadline.
        reading: Whether the poller watches the socket for data from the client.
    """

    sock: socket.socket
    deadline: float
    reset_after: bool
    progress_at: float
    unacknowledged: int
    reading: bool = True


class LingeringCloser:
    """Closes the sockets of clients after the clients have received the whole response.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sockets: dict[int, _LingeringSocket] = {}
        self._scanning = False
        self._scratch = bytearray(_DISCARD_SIZE)

    def __len__(self) -> int:
        return len(self._sockets)

    def close_later(self, sock: socket.socket, *, reset_after: bool) -> None:
        """Take ownership of `sock`, shut down its write side, and close it later.

        Normally, close the socket when the client sends end-of-file, or after `LINGER_TIMEOUT` seconds. The kernel
        still delivers the data in the send buffer.

        If data from the client was lost, do not close the socket at end-of-file. Instead, close it with a reset when
        the client has acknowledged all sent data.

        If the client has not acknowledged all data, do not close the socket at the timeout, but when the client has
        acknowledged nothing for `_MAX_PAUSE` seconds: a reset would discard the data, and the kernel discards the
        data of a closed socket after a few minutes. `DeadPeerDetector` breaks the connection to a dead client.

        Args:
            sock: A non-blocking socket that is not registered with the poller.
            reset_after: Whether data from the client was lost before this call. Data that the client sends after this
                call is always discarded, and counts as lost too.
        """
        shutdown_write(sock)
        if len(self._sockets) >= _MAX_SOCKETS:
            self._close(next(iter(self._sockets)))
        deliver_after_close(sock)
        fd, now = sock.fileno(), time.monotonic()
        self._sockets[fd] = _LingeringSocket(sock, now + LINGER_TIMEOUT, reset_after, now, _unacknowledged(sock))
        poller().add(fd, lambda _: self._on_readable(fd), READ)
        dead_peer_detector().watch(sock)
        if not self._scanning:
            self._scanning = True
            self._loop.call_later(_SCAN_INTERVAL, self._scan)

    def close_all(self) -> None:
        """Close every socket. The kernel still delivers the data in the send buffers of the sockets."""
        for each in self._sockets.values():
            close_gracefully(each.sock)
        self._sockets.clear()

    def _on_readable(self, fd: int) -> None:
        each = self._sockets[fd]
        try:
            count = each.sock.recv_into(self._scratch)
        except BlockingIOError:
            return
        except OSError:
            self._close(fd)
            return
        if count:
            each.reset_after = True
        elif each.reset_after:
            self._stop_reading(fd, each)
        else:
            self._close(fd)

    def _stop_reading(self, fd: int, each: _LingeringSocket) -> None:
        if each.reading:
            each.reading = False
            poller().remove(fd)

    def _close(self, fd: int) -> None:
        each = self._sockets.pop(fd)
        self._stop_reading(fd, each)
        dead_peer_detector().unwatch(each.sock)
        if each.reset_after:
            reset(each.sock)
        else:
            close_gracefully(each.sock)

    def _scan(self) -> None:
        now = time.monotonic()
        try:
            for fd, each in list(self._sockets.items()):
                if (
                    now >= each.deadline
                    or _is_closed(each.sock)
                    or (each.reset_after and _unacknowledged(each.sock) == 0)
                ):
                    self._close_or_extend(fd, each, now)
        finally:
            self._scanning = bool(self._sockets)
            if self._scanning:
                self._loop.call_later(_SCAN_INTERVAL, self._scan)

    def _close_or_extend(self, fd: int, each: _LingeringSocket, now: float) -> None:
        """Close the socket. If the client has not acknowledged all data, extend the deadline instead.

        Also close the socket if the client has acknowledged nothing for `_MAX_PAUSE` seconds.
        """
        left = _unacknowledged(each.sock)
        if left != each.unacknowledged:
            each.unacknowledged, each.progress_at = left, now
        if left and now - each.progress_at < _MAX_PAUSE and not _is_closed(each.sock):
            each.deadline = now + LINGER_TIMEOUT
        else:
            self._close(fd)


@per_loop
def lingering_closer(loop: asyncio.AbstractEventLoop) -> LingeringCloser:
    """Return the `LingeringCloser` of the running loop."""
    closer = LingeringCloser(loop)
    if isinstance(loop, RelayEventLoop):
        loop.on_close.append(closer.close_all)
    return closer


def _is_closed(sock: socket.socket) -> bool:
    """Return whether the kernel has closed the connection.

    This function checks the TCP state and not the send buffer, because unacknowledged data remains in the send buffer
    of a closed connection.
    """
    if sock.family == socket.AF_UNIX:
        return False
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE


def _unacknowledged(sock: socket.socket) -> int:
    """Return the number of sent bytes, including the FIN, that the peer has not acknowledged (tcp(7), SIOCOUTQ)."""
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])
