"""The socket under one SSH connection: to asyncssh a transport, to the relays an inbox and an outbox."""

import asyncio
import logging
import socket
from typing import Any

from gateway.relay.poller import READ, WRITE, poller
from gateway.relay.sockets import limit_unsent
from gateway.ssh.doors import PlaneConnection
from gateway.ssh.inbox import Inbox
from gateway.ssh.outbox import Outbox

log = logging.getLogger(__name__)

_FAILED = "the data plane failed; its SSH connection is closed"
"""What its relays were about to take is not to be trusted any more."""


class Wire(asyncio.Transport):
    """Owns the socket of one SSH connection.

    Args:
        sock: Connected and non-blocking.
        conn: asyncssh's side.
    """

    def __init__(self, sock: socket.socket, conn: PlaneConnection) -> None:
        super().__init__()
        self.inbox = Inbox(sock, conn, self._drop)
        self.outbox = Outbox(sock, conn, self._update, self._drop)
        self._sock = sock
        self._conn = conn
        self._fd = sock.fileno()
        limit_unsent(sock)
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._ready = poller()
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
        self.outbox.write(data)

    def abort(self) -> None:
        """Close the socket, once what is batched has been offered to it."""
        if self._closed:
            return
        self.outbox.flush()
        self._drop(None)

    close = abort

    def last_heard(self, within: float) -> float:
        """Say when the peer last showed that it lives, in `time.monotonic()`.

        What arrives during a key exchange counts for a limited time: nothing can be sent until the peer finishes it,
        but on a slow path everything that was queued before has to pass first.

        Args:
            within: Seconds that a key exchange may take.
        """
        if self._conn.may_send_data:
            return self.inbox.last_received
        return min(self.inbox.last_received, self._conn.kex_began + within)

    # What asyncssh's side calls.

    def resume_soon(self) -> None:
        """Asyncssh finished a packet that it had to wait for: go on with what came after it."""
        if self.inbox.waiting:
            self._loop.call_soon(self._resume)

    # The inside.

    def _resume(self) -> None:
        try:
            self.inbox.resume()
            self._update()
        except Exception as error:
            log.exception(_FAILED)
            self._drop(error)

    def _update(self) -> None:
        # A buffer that is full and that nobody takes from must not make epoll report the socket without end.
        deaf = self.inbox.full or self.outbox.congested
        mask = (0 if deaf else READ) | (WRITE if self.outbox.blocked else 0)
        if mask != self._mask and not self._closed:
            self._mask = mask
            self._ready.modify(self._fd, mask)

    def _on_event(self, event: int) -> None:
        try:
            if event & WRITE and self.outbox.blocked:
                self.outbox.drain()
                self._update()
            if event & ~WRITE and not self._closed:
                self.inbox.receive()
                # The usual case: while data may be sent, nothing waits for the socket.
                if self._mask != READ or not self.outbox.may_send or self.inbox.full:
                    self._update()
        except Exception as error:
            log.exception(_FAILED)
            self._drop(error)

    def _drop(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._ready.remove(self._fd)
        self._sock.close()
        self.inbox.close()
        self.outbox.close()
        self._conn.connection_lost(error)
