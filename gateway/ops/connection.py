"""One connection to the ops server: its deadlines, and the size of its requests."""

import asyncio
import socket
from typing import Protocol

from aiohttp import web

from gateway.ops.bounds import Limits


class Owner(Protocol):
    """Whoever holds the connections of one listener."""

    def handler_for(self, connection: "Connection") -> web.RequestHandler:
        """What reads the requests of a connection that is open now."""

    def answering(self, connection: "Connection") -> None:
        """A whole request has come."""

    def answered(self, connection: "Connection") -> None:
        """It has been answered."""

    def forget(self, connection: "Connection") -> None:
        """The connection has ended."""


class Connection(asyncio.Protocol):
    """One connection: counts the bytes of a request, keeps the deadlines, and passes everything on to aiohttp.

    Args:
        owner: Who holds it.
        limits: The bounds.
        client: The accepted socket; the transport closes it.

    Attributes:
        begun: Whether asyncio has taken the socket.
        opening: The task that opens it, a TLS handshake included.
    """

    def __init__(self, owner: Owner, limits: Limits, client: socket.socket) -> None:
        self.client = client
        self._owner = owner
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._unanswered = 0
        self._idle = False
        self._timer = self._loop.call_later(limits.head, self.end)
        self.begun = False
        self.opening: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.handler: web.RequestHandler | None = None

    def end(self) -> None:
        """Close it now."""
        self.stop_timer()
        if self.transport is not None:
            self.transport.abort()
        elif self.opening is not None:
            self.opening.cancel()

    def stop_timer(self) -> None:
        """Let no deadline pass any more."""
        self._timer.cancel()

    def answering(self) -> None:
        """A whole request has come."""
        self._unanswered = 0
        self._deadline(self._limits.answer)
        self._owner.answering(self)

    def answered(self) -> None:
        """Its response has been written."""
        if self.transport is not None and not self.transport.is_closing():
            self._idle = self._unanswered == 0
            self._deadline(self._limits.idle if self._idle else self._limits.head)
            self._owner.answered(self)

    def _deadline(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.end)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = transport  # type: ignore[assignment] # of a stream
        self.handler = self._owner.handler_for(self)
        self.handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._unanswered += len(data)
        if self.handler is None or self._unanswered > self._limits.head_bytes:
            self.end()
            return
        if self._idle:
            self._idle = False
            self._deadline(self._limits.head)
        self.handler.data_received(data)

    def eof_received(self) -> None:
        """See `asyncio.Protocol`."""
        if self.handler is not None:
            self.handler.eof_received()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self.handler is not None:
            self.handler.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self.handler is not None:
            self.handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self.handler is not None:
            self.handler.connection_lost(exc)
        self._owner.forget(self)
