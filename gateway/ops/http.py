"""The HTTP servers: for everything that is read, for probes, and for commands on a unix socket."""

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, cast

from aiohttp import web

from gateway.contracts import Endpoint
from gateway.errors import ConfigError, GatewayError, UsageError
from gateway.ops import commands
from gateway.ops.access import Tokens
from gateway.ops.bounds import limits
from gateway.ops.control import Service
from gateway.ops.guard import Guard
from gateway.ops.listener import BACKLOG, Listener, bind
from gateway.ops.reading import ROLES, Handler, Reading, unknown
from gateway.ops.reading import json_response as _json
from gateway.ops.settings import Secrets, Settings, read_secrets
from gateway.relay.sockets import bind_unix

_OWNER_ONLY = 0o600
_LAST_ANSWERS = 1.0
"""Seconds at the end for requests that are being answered."""
_COMMAND = 120.0
"""Seconds for a command: a reload waits for files and workers."""
_LONG = 3600.0
_QUIET = logging.getLogger("gateway.ops.aiohttp")
_QUIET.setLevel(logging.CRITICAL)
"""aiohttp logs what clients send wrong, with a traceback each; what we do wrong, `Listener.timed` logs."""


class OpsServer:
    """Answers from memory; no request ever asks a remote.

    Args:
        service: What to tell about, and to tell.
        settings: Where to listen, and who may ask.
    """

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._secrets = Secrets()
        self._encrypted: list[Listener] = []
        # One thread: rendering a large exposition takes tens of milliseconds, which the loop does not have.
        self._renderer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._fresh = Reading(service, self._renderer, cached=False)
        self._shared = Reading(service, self._renderer, cached=True)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Endpoint]:
        """Serve on every address while the context lasts; gives the real address of `listen`.

        Raises:
            GatewayError: An address cannot be listened on, or a file cannot be used.
        """
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._renderer.shutdown, wait=False)
            self._secrets = await asyncio.to_thread(read_secrets, settings)
            # First: who sees that a port answers may take it that the socket does.
            await self._serve_admin(stack, settings.admin_socket)
            if settings.probe_listen is not None:
                probes = self._shared.handlers(probes_only=True)
                await self._serve_tcp(stack, "ops.probe_listen", settings.probe_listen, probes)
            yield await self._serve_tcp(stack, "ops.listen", settings.listen, self._shared.handlers())

    @property
    def files(self) -> set[Path]:
        """The files to watch; see `renew`."""
        return self._settings.files

    async def renew(self) -> None:
        """Read tokens and certificates again, for requests from now on; clients with a certificate connect again.

        Raises:
            GatewayError: One cannot be used; what was read before stays.
        """
        self._secrets = await asyncio.to_thread(read_secrets, self._settings)
        for listener in self._encrypted:
            listener.end_certified()

    async def _serve_tcp(
        self, stack: contextlib.AsyncExitStack, key: str, listen: Endpoint, handlers: dict[str, Handler]
    ) -> Endpoint:
        encrypted = key == "ops.listen" and self._settings.tls is not None
        listener = Listener(key, limits(_descriptors()), (lambda: self._secrets.tls) if encrypted else None)
        if encrypted:
            self._encrypted.append(listener)
        probes = key == "ops.probe_listen"
        tokens = Tokens if probes else (lambda: self._secrets.tokens)
        guard = Guard(self._settings.rules(probes=probes), tokens, ROLES)
        app = web.Application(middlewares=[listener.timed, guard.checked])
        app.add_routes([web.get(path, handler) for path, handler in handlers.items()])
        try:
            sockets = await bind(listen)
        except OSError as error:
            raise GatewayError(f"{key}: cannot listen on {listen}: {error.strerror}") from error
        address = Endpoint(*sockets[0].getsockname()[:2])
        await self._start(stack, listener, app, sockets, cancels=True)
        return address

    async def _serve_admin(self, stack: contextlib.AsyncExitStack, path: Path) -> None:
        listener = Listener("ops.admin_socket", limits(_descriptors(), answer=_COMMAND))
        app = web.Application(middlewares=[listener.timed, self._changing])
        app.add_routes([web.get(path, handler) for path, handler in self._fresh.handlers().items()])
        record = self._service.commanded
        app.add_routes(
            [
                web.post(path, commands.recorded(handler.__get__(self), record))
                for path, handler in self._ADMIN.items()
            ]
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sock = bind_unix(path, _OWNER_ONLY)
        except OSError as error:
            raise GatewayError(
                f"ops.admin_socket: {path}: {error.strerror} (choose another with --ops-admin-socket)"
            ) from error
        stack.callback(path.unlink, missing_ok=True)
        sock.listen(BACKLOG)
        await self._start(stack, listener, app, [sock], cancels=False)

    @staticmethod
    async def _start(
        stack: contextlib.AsyncExitStack,
        listener: Listener,
        app: web.Application,
        sockets: list[socket.socket],
        *,
        cancels: bool,
    ) -> None:
        """Serve `app`; `cancels`: a request ends with its connection. A command is completed in any case."""
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_QUIET,
            shutdown_timeout=_LAST_ANSWERS,
            keepalive_timeout=_LONG,  # the listener's deadlines are shorter
            lingering_time=0,
            handler_cancellation=cancels,
            auto_decompress=False,
        )
        await runner.setup()
        listener.start(sockets, cast("web.Server", runner.server))  # which setup has made
        stack.push_async_callback(listener.end_all)
        stack.push_async_callback(runner.cleanup)
        stack.callback(listener.close)

    @classmethod
    def paths(cls) -> list[tuple[str, str]]:
        """Every method and path that is served."""
        return [("GET", path) for path in ROLES] + [("POST", path) for path in cls._ADMIN]

    @web.middleware
    async def _changing(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Let what a command changed be seen at once."""
        response = await handler(request)
        if request.method == "POST":
            self._shared.forget()
        return response

    async def _reload(self, _: web.Request) -> web.Response:
        try:
            return _json({"status": "done", "detail": await self._service.reload()})
        except (ConfigError, UsageError) as error:
            return _json({"status": "refused", "detail": str(error)}, status=422)
        except GatewayError as error:
            return _json({"status": "failed", "detail": str(error)}, status=409)

    async def _drain(self, _: web.Request) -> web.Response:
        self._service.drain()
        return _json({"status": "done", "detail": "draining"})

    async def _undrain(self, _: web.Request) -> web.Response:
        try:
            self._service.undrain()
        except GatewayError as error:
            return _json({"status": "failed", "detail": str(error)}, status=409)
        return _json({"status": "done", "detail": "ready again"})

    async def _shutdown(self, _: web.Request) -> web.Response:
        self._service.shutdown()
        return _json({"status": "done", "detail": "shutting down"})

    async def _pause(self, request: web.Request) -> web.Response:
        name, paused = request.match_info["name"], request.path.endswith("/pause")
        try:
            known = self._service.pause(name, paused=paused)
        except GatewayError as error:
            return _json({"status": "failed", "detail": str(error)}, status=409)
        if not known:
            return unknown("backend", name)
        return _json({"status": "done", "detail": f"{name} is {'paused' if paused else 'checked again'}"})

    async def _fail(self, request: web.Request) -> web.Response:
        name, failing = request.match_info["name"], request.path.endswith("/fail")
        if not self._service.fail(name, failing=failing):
            return unknown("backend", name)
        told = "resets clients while its path is down" if failing else "holds clients again"
        return _json({"status": "done", "detail": f"{name} {told}"})

    async def _reconnect(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not self._service.reconnect(name):
            return unknown("tunnel", name)
        return _json({"status": "done", "detail": f"{name} reconnects"})

    _ADMIN: ClassVar[dict[str, Any]] = {
        "/-/reload": _reload,
        "/-/drain": _drain,
        "/-/undrain": _undrain,
        "/-/shutdown": _shutdown,
        "/-/backends/{name}/pause": _pause,
        "/-/backends/{name}/resume": _pause,
        "/-/backends/{name}/fail": _fail,
        "/-/backends/{name}/hold": _fail,
        "/-/tunnels/{name}/reconnect": _reconnect,
    }


def _descriptors() -> int:
    """How many this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
