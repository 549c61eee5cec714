"""The socket under one SSH connection: to asyncssh a transport, to the relays an reader and an writer."""

import asyncio
import logging
import socket
from typing import Any

from gateway.relay.readiness import READ, WRITE, readiness
from gateway.relay.sockets import keep_backlog_short
from gateway.ssh.asyncssh_internals import ClientConnection
from gateway.ssh.packet_reader import PacketReader
from gateway.ssh.packet_writer import PacketWriter

log = logging.getLogger(__name__)

_FAILED = "the data plane failed; its SSH connection is closed"
"""What its relays were about to take is not to be trusted any more."""


class PacketTransport(asyncio.Transport):
    """Owns the socket of one SSH connection.

    Args:
        sock: Connected and non-blocking.
        conn: asyncssh's side.
    """

    def __init__(self, sock: socket.socket, conn: ClientConnection) -> None:
        super().__init__()
        self.reader = PacketReader(sock, conn, self._close)
        self.writer = PacketWriter(sock, conn, self._update, self._close)
        self._sock = sock
        self._conn = conn
        self._fd = sock.fileno()
        keep_backlog_short(sock)
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._ready = readiness()
        self._mask = READ
        self._ready.add(self._fd, self._on_event, READ)

    # What asyncssh calls.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The socket and its addresses."""
        if name == "socket":
            return self._sock
        try:
            if name == "sockname":
                return self._sock.getsockname() or default
            if name == "peername":
                return self._sock.getpeername() or default
        except OSError:
            return default
        return default

    def is_closing(self) -> bool:
        """Whether the socket is closed."""
        return self._closed

    def write(self, data: Any) -> None:
        """Take a sealed packet, or the plain text of the first ones."""
        self.writer.write(data)

    def abort(self) -> None:
        """Close the socket, once what is batched has been offered to it."""
        if self._closed:
            return
        self.writer.flush()
        self._close(None)

    close = abort

    def last_heard(self, within: float) -> float:
        """Say when the peer last showed that it lives, in `time.monotonic()`.

        What arrives during a key exchange counts for a limited time: nothing can be sent until the peer finishes it,
        but on a slow path everything that was queued before has to pass first.

        Args:
            within: Seconds that a key exchange may take.
        """
        if self._conn.may_send_data:
            return self.reader.last_received
        return min(self.reader.last_received, self._conn.kex_started + within)

    # What asyncssh's side calls.

    def schedule_resume(self) -> None:
        """Asyncssh finished a packet that it had to wait for: go on with what came after it."""
        if self.reader.buffered:
            self._loop.call_soon(self._resume)

    # The inside.

    def _resume(self) -> None:
        try:
            self.reader.resume()
            self._update()
        except Exception as error:
            log.exception(_FAILED)
            self._close(error)

    def _update(self) -> None:
        # A buffer that is full and that nobody takes from must not make epoll report the socket without end.
        deaf = self.reader.full or self.writer.congested
        mask = (0 if deaf else READ) | (WRITE if self.writer.blocked else 0)
        if mask != self._mask and not self._closed:
            self._mask = mask
            self._ready.modify(self._fd, mask)

    def _on_event(self, event: int) -> None:
        try:
            if event & WRITE and self.writer.blocked:
                self.writer.drain()
                self._update()
            if event & ~WRITE and not self._closed:
                self.reader.receive()
                # The usual case: while data may be sent, nothing waits for the socket.
                if self._mask != READ or not self.writer.may_send or self.reader.full:
                    self._update()
        except Exception as error:
            log.exception(_FAILED)
            self._close(error)

    def _close(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._ready.remove(self._fd)
        self._sock.close()
        self.reader.close()
        self.writer.close()
        self._conn.connection_lost(error)
