"""How the owner and a worker talk: pickled messages over a socket pair, with the descriptors that belong to each."""

import asyncio
import logging
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

_HEAD = struct.Struct(">II")
_MOST_FDS = 16
"""With one message; the kernel never joins what two messages brought."""
_READ = 1 << 16


class Messenger:
    """One end of the conversation, on a stream socket.

    Args:
        sock: Connected and non-blocking; owned.
        on_message: Called with each message and its descriptors, which it owns: all of them, or none where one was
            lost because a process has no more.
        on_end: Called once when the other end is gone, or says what cannot be understood.
    """

    def __init__(
        self, sock: socket.socket, on_message: Callable[[Any, list[int]], None], on_end: Callable[[], None]
    ) -> None:
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._incoming = bytearray()
        self._fds: list[int] = []
        self._outgoing: list[tuple[bytes, list[int]]] = []
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Any, fds: list[int] | None = None) -> None:
        """Send a message; the descriptors are duplicated on their way, and stay the caller's to close."""
        if self._sock.fileno() < 0:
            return
        body, copies = pickle.dumps(message), _copies(fds or [])
        self._outgoing.append((_HEAD.pack(len(body), len(copies)) + body, copies))
        self._flush()

    @property
    def backlogged(self) -> bool:
        """Whether the other end is slow to read."""
        return bool(self._outgoing)

    def close(self) -> None:
        """Hang up."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fds in self._outgoing:
            _close_all(fds)
        _close_all(self._fds)

    def _flush(self) -> None:
        if self._sock.fileno() < 0:
            return
        try:
            while self._outgoing:
                data, fds = self._outgoing[0]
                sent = socket.send_fds(self._sock, [data], fds) if fds else self._sock.send(data)
                _close_all(fds)
                if sent < len(data):
                    self._outgoing[0] = (data[sent:], [])
                else:
                    del self._outgoing[0]
        except BlockingIOError:
            self._loop.add_writer(self._sock.fileno(), self._flush)
            return
        except OSError:
            self._gone()
            return
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, _READ, _MOST_FDS)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._gone()
            return
        self._incoming += data
        self._fds += fds
        while len(self._incoming) >= _HEAD.size and self._sock.fileno() >= 0:
            size, count = _HEAD.unpack_from(self._incoming)
            if len(self._incoming) < _HEAD.size + size:
                return
            body = self._incoming[_HEAD.size : _HEAD.size + size]
            del self._incoming[: _HEAD.size + size]
            try:
                message = pickle.loads(body)  # noqa: S301 - our own process
            except Exception:
                # The two processes run different versions, or one has lost count: a new one begins from the start.
                log.exception("a message cannot be read: the conversation with the other process ends")
                self._gone()
                return
            mine, self._fds = self._fds[:count], self._fds[count:]
            if len(mine) < count:
                _close_all(mine)
            self._on_message(message, mine)

    def _gone(self) -> None:
        self.close()
        self._on_end()


def _copies(fds: list[int]) -> list[int]:
    """The descriptors once more; none where there are not enough left."""
    copies: list[int] = []
    try:
        for fd in fds:
            copies += [socket.dup(fd)]
    except OSError as error:
        log.error("descriptors cannot be passed on", extra={"detail": error.strerror})
        _close_all(copies)
    return copies


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        socket.close(fd)
    fds.clear()
