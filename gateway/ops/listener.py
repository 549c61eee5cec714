"""One listening address of the ops server: accepts within bounds, and closes what is slow."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.contracts import Endpoint
from gateway.ops.bounds import Connections, Limits
from gateway.ops.connection import Connection

log = logging.getLogger(__name__)

BACKLOG = 1024
_ACCEPTS_PER_TURN = 8
_PAUSE_AFTER_ERROR = 0.1
_TLS_CLOSE = 1.0
_SPARE = 4
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Listener:
    """Accepts connections on bound sockets and hands them to an aiohttp server.

    It never holds more than its limits permit: a new connection takes the place of the one that waited longest
    without a request. A few descriptors are kept in reserve, so that it answers while the rest of the process has
    none left.

    Args:
        name: The key of the configuration, for the log.
        limits: The bounds.
        tls: Gives the TLS context for a new connection; None: plain HTTP.
    """

    _server: Callable[[], web.RequestHandler]

    def __init__(self, name: str, limits: Limits, tls: Callable[[], ssl.SSLContext | None] | None = None) -> None:
        self._name = name
        self._limits = limits
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._connections: Connections[Connection] = Connections(limits)
        self._by_handler: dict[object, Connection] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._spare: list[int] = []

    def start(self, sockets: list[socket.socket], server: Callable[[], web.RequestHandler]) -> None:
        """Accept on `sockets`, which are bound, listen and are owned from here on.

        Args:
            sockets: Where to accept.
            server: Makes the protocol that reads the requests of one connection.
        """
        self._sockets = sockets
        self._server = server
        self._refill()
        for sock in sockets:
            self._watch(sock)

    def close(self) -> None:
        """Listen no more; connections go on until their deadlines or `end_all`."""
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets = []
        while self._spare:
            os.close(self._spare.pop())

    def __len__(self) -> int:
        """How many connections it holds."""
        return len(self._connections)

    async def end_all(self) -> None:
        """Close every connection now."""
        for connection in self._connections:
            connection.end()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def end_certified(self) -> None:
        """Close the connections that a client certificate opened: who signs those has changed perhaps."""
        for connection in self._connections:
            transport = connection.transport
            if connection.begun if transport is None else transport.get_extra_info("peercert"):
                connection.end()

    @web.middleware
    async def timed(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer a request to the last byte, within the deadline of an answer."""
        connection = self._by_handler.get(request.protocol)
        if connection is None:
            raise ConnectionResetError
        connection.answering()
        try:
            response = await handler(request)
        except web.HTTPException as error:  # aiohttp would write it after us
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
            response = web.Response(
                status=error.status, text=f"{(error.text or error.reason).rstrip()}\n", headers=allow
            )
        except Exception:
            log.exception("a request failed", extra={"listener": self._name})
            response = web.Response(status=500, text="internal error: see the log\n")
        await response.prepare(request)
        await response.write_eof()
        connection.answered()
        return response

    # Accepting.

    def _watch(self, sock: socket.socket) -> None:
        if sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                client, peer = sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._accept_without_room(sock, error)
                return
            self._admit(client, peer)

    def _accept_without_room(self, sock: socket.socket, error: OSError) -> None:
        """Out of descriptors, which accept(2) says before it looks whether anybody waits: take one of the reserve."""
        if self._spare:
            os.close(self._spare.pop())
            try:
                self._admit(*sock.accept())
            except OSError:
                self._refill()
            return
        oldest = self._connections.oldest()
        if oldest is not None:
            oldest.end()  # the kernel keeps the new one until then
            return
        log.error("cannot accept", extra={"listener": self._name, "detail": error.strerror})
        self._loop.remove_reader(sock.fileno())
        self._loop.call_later(_PAUSE_AFTER_ERROR, self._watch, sock)

    def _refill(self) -> None:
        with contextlib.suppress(OSError):  # none left: again at the end of the next connection
            while self._sockets and len(self._spare) < _SPARE:
                self._spare.append(os.dup(self._sockets[0].fileno()))

    def _keep_descriptor(self, client: socket.socket) -> None:
        """Close a connection by making its descriptor one of the reserve, so that nothing else takes it meanwhile."""
        if self._sockets and len(self._spare) < _SPARE and client.fileno() >= 0:
            self._spare.append(os.dup2(self._sockets[0].fileno(), client.detach(), inheritable=False))

    def _admit(self, client: socket.socket, peer: object) -> None:
        client.setblocking(False)
        connection = Connection(self, self._limits, client)
        victim = self._connections.enter(connection, str(peer[0]) if isinstance(peer, tuple) else None)
        if victim is not None:
            victim.end()
        task = self._loop.create_task(self._open(connection))
        connection.opening = task
        self._opening.add(task)
        task.add_done_callback(lambda done: self._opened(done, connection))

    async def _open(self, connection: Connection) -> None:
        connection.begun = True
        tls = self._tls() if self._tls is not None else None
        await self._loop.connect_accepted_socket(
            lambda: connection,
            connection.client,
            ssl=tls,
            ssl_handshake_timeout=self._limits.head if tls else None,
            ssl_shutdown_timeout=_TLS_CLOSE if tls else None,
        )

    def _opened(self, task: "asyncio.Task[None]", connection: Connection) -> None:
        self._opening.discard(task)
        failed = task.cancelled() or task.exception() is not None
        if not connection.begun:
            connection.client.close()
        if failed and connection.transport is None:  # a TLS handshake that did not come about
            self.forget(connection)

    # What a connection says of itself.

    def handler_for(self, connection: Connection) -> web.RequestHandler:
        """What reads the requests of a connection that is open now."""
        handler = self._server()
        self._by_handler[handler] = connection
        return handler

    def forget(self, connection: Connection) -> None:
        """The connection has ended."""
        connection.stop_timer()
        self._connections.leave(connection)
        self._by_handler.pop(connection.handler, None)
        self._keep_descriptor(connection.client)
        self._loop.call_soon(self._refill)  # asyncio closes the socket after this, where it is not kept

    def answering(self, connection: Connection) -> None:
        """A whole request has come."""
        self._connections.answering(connection)

    def answered(self, connection: Connection) -> None:
        """It has been answered."""
        self._connections.answered(connection)


async def bind(listen: Endpoint) -> list[socket.socket]:
    """Listening, non-blocking sockets for every address of `listen`, which the caller owns.

    Raises:
        OSError: One cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(*listen, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, *_, address in dict.fromkeys(found):
            try:
                bound.append(socket.create_server(address, family=family, backlog=BACKLOG))
            except OSError as error:
                if not bound or error.errno not in _NO_IPV6:  # 127.0.0.1 is what most mean by localhost
                    raise
            else:
                bound[-1].setblocking(False)
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound
