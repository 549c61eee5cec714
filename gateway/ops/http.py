"""The HTTP server for health, metrics and status, and the admin server on its unix socket."""

import asyncio
import contextlib
import importlib.resources
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from aiohttp import web

from gateway.contracts import Endpoint
from gateway.errors import ConfigError, GatewayError, UsageError
from gateway.ops import asked, health, metrics
from gateway.ops.answers import consumers_json, plan_json, service_json
from gateway.ops.control import Service
from gateway.relay.sockets import bind_unix

_PAGE = "page.html"
_OWNER_ONLY = 0o600
_LAST_ANSWERS = 1.0
"""Seconds at the end for requests that are being answered."""


class OpsServer:
    """Answers from memory; no request ever asks a remote.

    Args:
        service: What to tell about, and to tell.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        # One thread: rendering a large exposition takes tens of milliseconds, which the loop does not have.
        self._renderer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._rendering: dict[str, asyncio.Future[tuple[bytes, str]]] = {}
        self._page = importlib.resources.files("gateway.ops.page").joinpath(_PAGE).read_text()

    @contextlib.asynccontextmanager
    async def serving(self, listen: Endpoint, admin_socket: Path) -> AsyncIterator[Endpoint]:
        """Serve on both addresses while the context lasts; gives the real HTTP address.

        Raises:
            GatewayError: An address cannot be listened on.
        """
        public, admin = (
            web.AppRunner(self._public(), access_log=None, shutdown_timeout=_LAST_ANSWERS),
            web.AppRunner(self._admin(), access_log=None, shutdown_timeout=_LAST_ANSWERS),
        )
        admin_bound = False
        try:
            await public.setup()
            await admin.setup()
            # First: who sees that the port answers may take it that the socket does.
            try:
                admin_socket.parent.mkdir(parents=True, exist_ok=True)
                await web.SockSite(admin, bind_unix(admin_socket, _OWNER_ONLY)).start()
                admin_bound = True
            except OSError as error:
                raise GatewayError(
                    f"ops.admin_socket: {admin_socket}: {error.strerror} (choose another with --ops-admin-socket)"
                ) from error
            try:
                await web.TCPSite(public, listen.host, listen.port).start()
            except OSError as error:
                raise GatewayError(f"ops.listen: cannot listen on {listen}: {error.strerror}") from error
            yield Endpoint(*public.addresses[0][:2])
        finally:
            await public.cleanup()
            await admin.cleanup()
            if admin_bound:
                admin_socket.unlink(missing_ok=True)  # noqa: ASYNC240 - one call on a local file system
            self._renderer.shutdown(wait=False)

    @classmethod
    def paths(cls) -> list[tuple[str, str]]:
        """Every method and path that is served."""
        return [("GET", path) for path in cls._READ] + [("POST", path) for path in cls._ADMIN]

    def _public(self) -> web.Application:
        app = web.Application()
        app.add_routes([web.get(path, handler.__get__(self)) for path, handler in self._READ.items()])
        return app

    def _admin(self) -> web.Application:
        app = self._public()
        record = self._service.commanded
        app.add_routes(
            [web.post(path, asked.noted(handler.__get__(self), record)) for path, handler in self._ADMIN.items()]
        )
        return app

    async def _live(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _startup(self, _: web.Request) -> web.Response:
        done = self._service.view().startup_done
        return web.Response(status=200 if done else 503, text="started\n" if done else "starting\n")

    async def _ready(self, request: web.Request) -> web.Response:
        return _answer(health.ready(self._service.view(), *_demands(request)))

    async def _health(self, request: web.Request) -> web.Response:
        return _answer(health.health(self._service.view(), *_demands(request)), "application/health+json")

    async def _backend_ready(self, request: web.Request) -> web.Response:
        name = request.match_info["backend"]
        for backend in self._service.view().backends:
            if backend.name == name:
                return _answer(health.backend_ready(backend))
        return _unknown("backend", name)

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        rendering = self._rendering.get(accept)
        if rendering is None:
            rendering = asyncio.ensure_future(self._render(accept))
            self._rendering[accept] = rendering
            rendering.add_done_callback(lambda _: self._rendering.pop(accept))
        body, content_type = await asyncio.shield(rendering)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _render(self, accept: str) -> tuple[bytes, str]:
        view = await self._service.view_in_turns()
        return await asyncio.get_running_loop().run_in_executor(self._renderer, metrics.render, view, accept)

    async def _status(self, _: web.Request) -> web.Response:
        return _json(service_json(self._service.view()))

    async def _history(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        found = self._service.history(name)
        return _unknown("backend", name) if found is None else _json({"backend": name, "targets": found})

    async def _plan(self, _: web.Request) -> web.Response:
        return _json(plan_json(self._service.view().docker))

    async def _consumers(self, _: web.Request) -> web.Response:
        return _json(consumers_json(self._service.view()))

    async def _index(self, _: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline'; frame-ancestors 'none'"}
        return web.Response(text=self._page, content_type="text/html", headers=headers)

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
            return _unknown("backend", name)
        return _json({"status": "done", "detail": f"{name} is {'paused' if paused else 'checked again'}"})

    async def _fail(self, request: web.Request) -> web.Response:
        name, failing = request.match_info["name"], request.path.endswith("/fail")
        if not self._service.fail(name, failing=failing):
            return _unknown("backend", name)
        told = "resets clients while its path is down" if failing else "holds clients again"
        return _json({"status": "done", "detail": f"{name} {told}"})

    async def _reconnect(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not self._service.reconnect(name):
            return _unknown("tunnel", name)
        return _json({"status": "done", "detail": f"{name} reconnects"})

    _READ: ClassVar[dict[str, Any]] = {
        "/livez": _live,
        "/healthz": _live,
        "/startupz": _startup,
        "/readyz": _ready,
        "/readyz/{backend}": _backend_ready,
        "/health": _health,
        "/metrics": _metrics,
        "/api/v1/status": _status,
        "/api/v1/checks/{name}/history": _history,
        "/api/v1/plan": _plan,
        "/api/v1/consumers": _consumers,
        "/": _index,
    }
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


def _demands(request: web.Request) -> tuple[list[str], int]:
    require = [name for text in request.query.getall("require", []) for name in text.split(",") if name]
    text = request.query.get("min-ready", "0")
    if not (text.isascii() and text.isdigit()):
        raise web.HTTPBadRequest(text=f"min-ready={text}: must be a whole number\n")
    return require, int(text)


def _answer(answer: health.Answer, content_type: str = "application/json") -> web.Response:
    return _json(answer.body, status=answer.status, content_type=content_type)


def _json(body: object, *, status: int = 200, content_type: str = "application/json") -> web.Response:
    return web.Response(text=json.dumps(body, indent=1) + "\n", status=status, content_type=content_type)


def _unknown(what: str, name: str) -> web.Response:
    return _json({"status": "unknown", "detail": f"there is no {what} {name!r}"}, status=404)
