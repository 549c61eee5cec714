"""Sends pickled messages and file descriptors between the owner and a worker, over a socket pair."""

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
"""Maximum number of descriptors in one message. The kernel never merges the descriptors of two messages."""
_READ = 1 << 16


class Messenger:
    """One end of the connection between the owner and a worker.

    Args:
        sock: A connected, non-blocking stream socket. The messenger takes ownership of it.
        on_message: Called with each message and its descriptors, which the callback then owns. If a descriptor is
            lost because a process has reached its descriptor limit, the callback gets no descriptors.
        on_end: Called once when the other end has closed the connection or has sent an invalid message.
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
        """Send a message with duplicates of `fds`. The caller still owns `fds`."""
        if self._sock.fileno() < 0:
            return
        body, copies = pickle.dumps(message), _duplicate(fds or [])
        self._outgoing.append((_HEAD.pack(len(body), len(copies)) + body, copies))
        self._flush()

    @property
    def backlogged(self) -> bool:
        """Whether messages are queued because the other end reads slowly."""
        return bool(self._outgoing)

    def close(self) -> None:
        """Close the connection and all descriptors that `on_message` has not received."""
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
            self._end()
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
            self._end()
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
                message = pickle.loads(body)  # noqa: S301 - only the owner or its worker writes to the socket
            except Exception:
                # This happens if the processes run different versions, or bytes were lost. The owner replaces the
                # worker.
                log.exception("cannot decode a message: closing the connection to the other process")
                self._end()
                return
            fds, self._fds = self._fds[:count], self._fds[count:]
            if len(fds) < count:
                _close_all(fds)
            self._on_message(message, fds)

    def _end(self) -> None:
        self.close()
        self._on_end()


def _duplicate(fds: list[int]) -> list[int]:
    """Return duplicates of all descriptors, or an empty list if the process has reached its limit of descriptors."""
    copies: list[int] = []
    try:
        for fd in fds:
            copies += [socket.dup(fd)]
    except OSError as error:
        log.error("cannot duplicate descriptors for a worker", extra={"detail": error.strerror})
        _close_all(copies)
    return copies


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        socket.close(fd)
    fds.clear()
