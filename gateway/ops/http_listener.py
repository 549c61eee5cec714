"""Accepts HTTP connections to one address of the ops server. Limits their number, and closes slow connections."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.ops.authorization_middleware import HEADERS
from gateway.ops.http_connection import HttpConnection
from gateway.ops.http_connection_limits import HttpConnectionLimits, HttpConnectionTable

log = logging.getLogger(__name__)

_ACCEPTS_PER_TURN = 8
_ACCEPT_RETRY_DELAY = 0.1
_TLS_SHUTDOWN_TIMEOUT = 1.0
_RESERVED_DESCRIPTORS = 4
_CONNECTION = web.RequestKey("connection", HttpConnection)


class HttpListener:
    """Accepts connections on bound sockets, and passes them to an aiohttp server.

    If a limit is reached, the listener accepts the new connection, and closes the least recently used connection,
    preferably an idle one. The listener reserves a few file descriptors, so that it can accept connections even if
    the rest of the process uses all other descriptors.

    Args:
        name: The configuration key of the address, for log records.
        limits: The limits on connections and their duration.
        tls: Returns the TLS context for a new connection, or None for plain HTTP.
    """

    _server: Callable[[], web.RequestHandler]

    def __init__(
        self, name: str, limits: HttpConnectionLimits, tls: Callable[[], ssl.SSLContext | None] | None = None
    ) -> None:
        self._name = name
        self._limits = limits
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._connections: HttpConnectionTable[HttpConnection] = HttpConnectionTable(limits)
        self._by_handler: dict[object, HttpConnection] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._reserve: list[int] = []

    def start(self, sockets: list[socket.socket], server: Callable[[], web.RequestHandler]) -> None:
        """Start accepting connections.

        Args:
            sockets: Listening sockets. The listener owns them from now on.
            server: Creates the asyncio protocol object that parses the requests of one connection.
        """
        self._sockets = sockets
        self._server = server
        self._fill_reserve()
        for sock in sockets:
            self._register(sock)

    def close(self) -> None:
        """Stop accepting connections. Open connections continue until their deadlines or `abort_all`."""
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets = []
        while self._reserve:
            os.close(self._reserve.pop())

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._connections)

    async def abort_all(self) -> None:
        """Close all connections immediately."""
        for connection in self._connections:
            connection.abort()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def abort_certified(self) -> None:
        """Close the connections of clients that have sent a certificate, and unfinished TLS handshakes.

        Call this method after a change of the certificate authorities for clients: the certificates may no longer be
        valid.
        """
        for connection in self._connections:
            transport = connection.transport
            if connection.adopted if transport is None else transport.get_extra_info("peercert"):
                connection.abort()

    @web.middleware
    async def complete_response(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Call the handler of a request, and send the whole response. This method is an aiohttp middleware.

        If the handler raises an exception, log it, and respond with status 500. The connection's deadline limits how
        long the response can take.
        """
        connection = self._by_handler.get(request.protocol)
        if connection is None:
            raise ConnectionResetError
        connection.headers_received()
        request[_CONNECTION] = connection
        try:
            response = await handler(request)
        except web.HTTPException as error:  # aiohttp or a handler raised an error response: send it below
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            response = web.Response(
                status=error.status, text=f"{(error.text or error.reason).rstrip()}\n", headers=allow
            )
        except Exception:
            log.exception("cannot respond to a request", extra={"listener": self._name})
            response = web.Response(status=500, text="internal error: see the log of the gateway\n")
        if not response.prepared:
            response.headers.update(HEADERS)
        await response.prepare(request)
        await response.write_eof()
        connection.response_sent()
        return response

    def _register(self, sock: socket.socket) -> None:
        if sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                client, peer = sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._accept_without_descriptor(sock, error)
                return
            self._admit(client, peer)

    def _accept_without_descriptor(self, sock: socket.socket, error: OSError) -> None:
        """Accept a connection although the process has no free file descriptor.

        First release a reserved descriptor. If none is reserved, close the least recently used connection,
        preferably an idle one. If no connection is open, try again later.

        Args:
            sock: The listening socket.
            error: The error of the failed accept(2), for the log.
        """
        if self._reserve:
            os.close(self._reserve.pop())
            try:
                self._admit(*sock.accept())
            except OSError:
                self._fill_reserve()
            return
        oldest = self._connections.oldest()
        if oldest is not None:
            # `abort` frees a descriptor soon. Until then, the new connection waits in the kernel's queue.
            oldest.abort()
            return
        log.error(
            "cannot accept clients: raise the limit on open files",
            extra={"listener": self._name, "detail": error.strerror},
        )
        self._loop.remove_reader(sock.fileno())
        self._loop.call_later(_ACCEPT_RETRY_DELAY, self._register, sock)

    def _fill_reserve(self) -> None:
        # If no file descriptor is free, dup(2) fails. Ignore the error: `_keep_descriptor` fills the reserve when
        # connections close.
        with contextlib.suppress(OSError):
            while self._sockets and len(self._reserve) < _RESERVED_DESCRIPTORS:
                self._reserve.append(os.dup(self._sockets[0].fileno()))

    def _keep_descriptor(self, client: socket.socket) -> None:
        """Close a socket, and put its file descriptor in the reserve.

        Other parts of the process cannot use a descriptor in the reserve. Do nothing if the reserve is full, or
        if the listener or the socket is closed.
        """
        if self._sockets and len(self._reserve) < _RESERVED_DESCRIPTORS and client.fileno() >= 0:
            self._reserve.append(os.dup2(self._sockets[0].fileno(), client.detach(), inheritable=False))

    def _admit(self, client: socket.socket, peer: object) -> None:
        client.setblocking(False)
        connection = HttpConnection(self, self._limits, client)
        evicted = self._connections.add(connection, str(peer[0]) if isinstance(peer, tuple) else None)
        if evicted is not None:
            evicted.abort()
        task = self._loop.create_task(self._open(connection))
        connection.open_task = task
        self._opening.add(task)
        task.add_done_callback(lambda done: self._opened(done, connection))

    async def _open(self, connection: HttpConnection) -> None:
        connection.adopted = True
        tls = self._tls() if self._tls is not None else None
        await self._loop.connect_accepted_socket(
            lambda: connection,
            connection.client,
            ssl=tls,
            ssl_handshake_timeout=self._limits.head if tls else None,
            ssl_shutdown_timeout=_TLS_SHUTDOWN_TIMEOUT if tls else None,
        )

    def _opened(self, task: "asyncio.Task[None]", connection: HttpConnection) -> None:
        self._opening.discard(task)
        failed = task.cancelled() or task.exception() is not None
        if not connection.adopted:
            connection.client.close()
        if failed and connection.transport is None:  # the TLS handshake failed
            self.connection_closed(connection)

    def handler_for(self, connection: HttpConnection) -> web.RequestHandler:
        """Create the protocol object that parses the requests of a connection (see `HttpConnectionCallbacks`)."""
        handler = self._server()
        self._by_handler[handler] = connection
        return handler

    def connection_closed(self, connection: HttpConnection) -> None:
        """Stop tracking a closed connection (see `HttpConnectionCallbacks`).

        If the reserve of file descriptors is not full, add the descriptor that the connection no longer needs.
        """
        connection.stop_timer()
        self._connections.remove(connection)
        self._by_handler.pop(connection.handler, None)
        self._keep_descriptor(connection.client)
        # Fill the reserve only after asyncio has closed the client's socket, which can free a file descriptor.
        self._loop.call_soon(self._fill_reserve)

    def headers_received(self, connection: HttpConnection) -> None:
        """Record that the headers of a request have arrived on a connection (see `HttpConnectionCallbacks`)."""
        self._connections.headers_received(connection)

    def response_sent(self, connection: HttpConnection) -> None:
        """Record that the response on a connection is complete (see `HttpConnectionCallbacks`)."""
        self._connections.response_sent(connection)


def extend_deadline(request: web.Request) -> None:
    """Restart the deadline of a streamed response, unless the client has stopped reading."""
    request[_CONNECTION].extend_response()
