"""Implements one HTTP connection to the ops server, with deadlines and a limit on the size of requests."""

import asyncio
import socket
from typing import Protocol

from aiohttp import web

from gateway.ops.http_connection_limits import HttpConnectionLimits


class HttpConnectionCallbacks(Protocol):
    """The methods that an HTTP connection calls on the listener that owns the connection."""

    def handler_for(self, connection: "HttpConnection") -> web.RequestHandler:
        """Return the asyncio protocol object that parses the requests of a new connection."""

    def headers_received(self, connection: "HttpConnection") -> None:
        """Record that the headers of a request have arrived on the connection."""

    def response_sent(self, connection: "HttpConnection") -> None:
        """Record that the response on the connection is complete."""

    def connection_closed(self, connection: "HttpConnection") -> None:
        """Remove a closed connection from the listener."""


class HttpConnection(asyncio.Protocol):
    """An HTTP connection that passes received data to aiohttp, and enforces deadlines and a size limit.

    Args:
        owner: The listener that owns the connection.
        limits: The deadlines, and the maximum size of a request.
        client: The accepted socket. While `adopted` is false, `owner` must close the socket. When `adopted` is
            true, the transport closes the socket.

    Attributes:
        adopted: Whether asyncio owns the socket.
        open_task: The task that opens the connection, including the TLS handshake.
        transport: The transport; None until the connection is open.
        handler: The asyncio protocol object that parses the requests; None until the connection is open.
    """

    def __init__(self, owner: HttpConnectionCallbacks, limits: HttpConnectionLimits, client: socket.socket) -> None:
        self.client = client
        self._owner = owner
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._received = 0
        """Number of bytes received since the last call of `headers_received`."""
        self._idle = False
        self._timer = self._loop.call_later(limits.head, self.abort)
        self.adopted = False
        self.open_task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.handler: web.RequestHandler | None = None

    def abort(self) -> None:
        """Close the connection immediately."""
        self.stop_timer()
        if self.transport is not None:
            self.transport.abort()
        elif self.open_task is not None:
            self.open_task.cancel()

    def stop_timer(self) -> None:
        """Cancel the current deadline."""
        self._timer.cancel()

    def headers_received(self) -> None:
        """Record that the headers of a request have arrived, and start the deadline of the response."""
        self._received = 0
        self._set_deadline(self._limits.response)
        self._owner.headers_received(self)

    def extend_response(self) -> None:
        """Restart the deadline of a streamed response, unless data waits in the transport's buffer.

        Data waits there when the kernel's send buffer is full, because the client does not read.
        """
        if self.transport is not None and not self.transport.get_write_buffer_size():
            self._set_deadline(self._limits.response)

    def response_sent(self) -> None:
        """Record that the response is complete, and start the deadline of the next request."""
        if self.transport is not None and not self.transport.is_closing():
            self._idle = self._received == 0
            self._set_deadline(self._limits.idle if self._idle else self._limits.head)
            self._owner.response_sent(self)

    def _set_deadline(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.abort)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Create the protocol object that parses the requests (see `asyncio.BaseProtocol`)."""
        self.transport = transport  # type: ignore[assignment] # a stream socket has an `asyncio.Transport`
        self.handler = self._owner.handler_for(self)
        self.handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass data to the handler, or abort the connection if the request is too large (see `asyncio.Protocol`)."""
        self._received += len(data)
        if self.handler is None or self._received > self._limits.request_bytes:
            self.abort()
            return
        if self._idle:
            self._idle = False
            self._set_deadline(self._limits.head)
        self.handler.data_received(data)

    def eof_received(self) -> None:
        """Notify the handler that the client sends no more data (see `asyncio.Protocol`)."""
        if self.handler is not None:
            self.handler.eof_received()

    def pause_writing(self) -> None:
        """Notify the handler that the transport's buffer is full (see `asyncio.BaseProtocol`)."""
        if self.handler is not None:
            self.handler.pause_writing()

    def resume_writing(self) -> None:
        """Notify the handler that the transport's buffer has space again (see `asyncio.BaseProtocol`)."""
        if self.handler is not None:
            self.handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the handler and the listener that the connection is closed (see `asyncio.BaseProtocol`)."""
        if self.handler is not None:
            self.handler.connection_lost(exc)
        self._owner.connection_closed(self)
