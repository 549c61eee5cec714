"""Runs the ops server: provides health, metrics and status over HTTP, and accepts commands on the admin socket."""

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

from gateway.contracts.config_types import HostPort
from gateway.default_file_paths import make_folder
from gateway.errors import ConfigError, GatewayError, UsageError
from gateway.fleet.blocking_call_runner import BlockingCallRunner
from gateway.ops.authorization import BearerTokens
from gateway.ops.authorization_middleware import AuthorizationMiddleware
from gateway.ops.command_audit_log import audited
from gateway.ops.http_connection_limits import limits_for
from gateway.ops.http_get_handlers import PROBES, ROLES, HttpGetHandlers, RequestHandler
from gateway.ops.http_listener import HttpListener
from gateway.ops.http_listening_sockets import BACKLOG, bind
from gateway.ops.json_responses import json_response as _json
from gateway.ops.json_responses import not_found
from gateway.ops.service_interface import ServiceInterface
from gateway.ops.settings import OpsSecrets, OpsSettings, read_secrets
from gateway.ops.status_view_cache import StatusViewCache
from gateway.relay.bind_errors import describe_bind_error
from gateway.relay.unix_sockets import bind_unix

_OWNER_ONLY = 0o600
_SHUTDOWN_TIMEOUT = 1.0
"""Maximum number of seconds for which the server waits for pending responses when it stops."""
_COMMAND_TIMEOUT = 120.0
"""Maximum number of seconds for an admin command. The time is long, because a reload can read files slowly."""
_READ_TIMEOUT = 30.0
"""Maximum number of seconds to wait until the files with tokens and certificates are read."""
_KEEPALIVE = 3600.0
_STREAM_SHARE = 4
"""The limit of event streams is the connection limit of a listener, divided by this number."""
_QUIET = logging.getLogger("gateway.ops.aiohttp")
_QUIET.setLevel(logging.CRITICAL)
"""Suppresses the log records of aiohttp, which logs a traceback for each invalid request. Errors of the handlers are
still logged, by `HttpListener.complete_response`."""


class OpsServer:
    """Serves HTTP requests and admin commands. All responses come from memory: no request connects to a target.

    Args:
        service: The service whose state the server returns, and that the admin commands control.
        settings: The addresses of the server, and what clients must send to get access.
    """

    def __init__(self, service: ServiceInterface, settings: OpsSettings) -> None:
        self._service = service
        self._settings = settings
        self._secrets = OpsSecrets()
        self._secret_reads: BlockingCallRunner[OpsSecrets] = BlockingCallRunner()
        self._renewing = asyncio.Lock()
        self._tls_listeners: list[HttpListener] = []
        # Render metrics in a thread. With many backends, rendering takes tens of milliseconds, and would block the
        # event loop.
        self._renderer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        streams = limits_for(_max_descriptors()).connections // _STREAM_SHARE
        self._uncached, self._cached = (
            HttpGetHandlers(service, StatusViewCache(service), self._renderer, cached=cached, max_streams=streams)
            for cached in (False, True)
        )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[HostPort]:
        """Respond to requests until the end of the `async with` block.

        Yields the address of `ops.listen`. If its port is configured as 0, the address contains the actual port.

        Raises:
            GatewayError: An address cannot be bound, or a file with a token or certificate is not valid.
        """
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._renderer.shutdown, wait=False)
            self._secrets = await asyncio.to_thread(read_secrets, settings)
            # Bind the admin socket first, so that it exists when the TCP port responds.
            await self._serve_admin(stack, settings.admin_socket)
            if settings.probe_listen is not None:
                probes = self._cached.handlers(probes_only=True)
                await self._serve_tcp(stack, "ops.probe_listen", settings.probe_listen, probes)
            yield await self._serve_tcp(stack, "ops.listen", settings.listen, self._cached.handlers())

    @property
    def files(self) -> set[Path]:
        """The files with tokens and certificates. The caller must call `renew` when one of the files changes."""
        return self._settings.files

    async def renew(self) -> None:
        """Read the tokens and certificates from their files again.

        Also close the connections of clients with a certificate, because the certificate may no longer be accepted.

        Raises:
            GatewayError: A file is not valid, or cannot be read in time. The previous tokens and certificates stay in
                use.
        """
        try:
            # Without the lock, the time limit of a call would include the reads of other calls.
            async with self._renewing:
                self._secrets = await self._secret_reads.run(lambda: read_secrets(self._settings), _READ_TIMEOUT)
        except TimeoutError as error:
            raise GatewayError(
                f"reading the files of the section ops took longer than {_READ_TIMEOUT:g} s: check whether a file"
                " system hangs"
            ) from error
        for listener in self._tls_listeners:
            listener.abort_certified()

    async def _serve_tcp(
        self, stack: contextlib.AsyncExitStack, key: str, listen: HostPort, handlers: dict[str, RequestHandler]
    ) -> HostPort:
        use_tls = key == "ops.listen" and self._settings.tls is not None
        limits = limits_for(_max_descriptors())
        listener = HttpListener(key, limits, (lambda: self._secrets.tls) if use_tls else None)
        if use_tls:
            self._tls_listeners.append(listener)
        probes = key == "ops.probe_listen"
        tokens = BearerTokens if probes else (lambda: self._secrets.tokens)
        access = AuthorizationMiddleware(self._settings.rules(probes=probes), tokens, ROLES, PROBES)
        app = web.Application(middlewares=[listener.complete_response, access.handle])
        app.add_routes([web.get(path, handler) for path, handler in handlers.items()])
        app.on_shutdown.append(self._cached.close_streams)
        try:
            sockets = await bind(listen)
        except OSError as error:
            raise GatewayError(f"{key}: cannot listen on {listen}: {describe_bind_error(error)}") from error
        address = HostPort(*sockets[0].getsockname()[:2])
        await self._start(stack, listener, app, sockets, cancel_handlers=True)
        return address

    async def _serve_admin(self, stack: contextlib.AsyncExitStack, path: Path) -> None:
        listener = HttpListener("ops.admin_socket", limits_for(_max_descriptors(), response=_COMMAND_TIMEOUT))
        app = web.Application(middlewares=[listener.complete_response, self._clear_cache])
        app.add_routes([web.get(path, handler) for path, handler in self._uncached.handlers().items()])
        app.on_shutdown.append(self._uncached.close_streams)
        record = self._service.record_command
        app.add_routes(
            [web.post(path, audited(handler.__get__(self), record)) for path, handler in self._ADMIN.items()]
        )
        try:
            make_folder(path)
            sock = bind_unix(path, _OWNER_ONLY)
        except OSError as error:
            raise GatewayError(
                f"ops.admin_socket: cannot listen on {path}: {describe_bind_error(error, unix=True)}"
                " (set another path with --ops-admin-socket)"
            ) from error
        stack.callback(path.unlink, missing_ok=True)
        sock.listen(BACKLOG)
        await self._start(stack, listener, app, [sock], cancel_handlers=False)

    @staticmethod
    async def _start(
        stack: contextlib.AsyncExitStack,
        listener: HttpListener,
        app: web.Application,
        sockets: list[socket.socket],
        *,
        cancel_handlers: bool,
    ) -> None:
        """Serve `app` until `stack` closes.

        Args:
            stack: When it closes, it closes the listener first, then the connections.
            listener: The listener.
            app: The aiohttp application that handles the requests.
            sockets: Listening sockets. The listener owns them from now on.
            cancel_handlers: Whether to cancel the handler of a request if the client disconnects. False for commands,
                because a command must not stop in the middle.
        """
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=_QUIET,
            shutdown_timeout=_SHUTDOWN_TIMEOUT,
            # Effectively disable aiohttp's timeout, because the listener has its own, shorter deadlines.
            keepalive_timeout=_KEEPALIVE,
            lingering_time=0,
            handler_cancellation=cancel_handlers,
            auto_decompress=False,
        )
        await runner.setup()
        listener.start(sockets, cast("web.Server", runner.server))
        stack.push_async_callback(listener.abort_all)
        stack.push_async_callback(runner.cleanup)
        stack.callback(listener.close)

    @classmethod
    def paths(cls) -> list[tuple[str, str]]:
        """Return the method and the path of each endpoint."""
        return [("GET", path) for path in ROLES] + [("POST", path) for path in cls._ADMIN]

    @web.middleware
    async def _clear_cache(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Clear the cache after each command, so that the next request shows the effect of the command."""
        response = await handler(request)
        if request.method == "POST":
            self._cached.clear_cache()
            self._uncached.clear_cache()
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
            return not_found("backend", name, self._backends())
        return _json({"status": "done", "detail": f"the checks of {name} are {'paused' if paused else 'resumed'}"})

    def _backends(self) -> list[str]:
        return [each.name for each in self._service.backend_statuses()]

    async def _fail(self, request: web.Request) -> web.Response:
        name, failing = request.match_info["name"], request.path.endswith("/fail")
        if not self._service.fail(name, failing=failing):
            return not_found("backend", name, self._backends())
        effect = "are reset" if failing else "wait"
        return _json({"status": "done", "detail": f"connections to {name} {effect} while the backend is down"})

    async def _reconnect(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not self._service.reconnect(name):
            return not_found("tunnel", name, [each.name for each in (await self._service.view()).tunnels])
        return _json({"status": "done", "detail": f"{name} is reconnecting"})

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


def _max_descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
