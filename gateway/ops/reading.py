"""The answers to GET: computed from memory, at most once in a moment, and rendered in small turns."""

import asyncio
import importlib.resources
import json
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

from aiohttp import web

from gateway.ops import health, metrics
from gateway.ops.access import Role
from gateway.ops.answers import consumers_json, plan_json, service_json, written
from gateway.ops.cache import Cache, in_turns
from gateway.ops.control import Service
from gateway.ops.guard import shows_details
from gateway.ops.view import ServiceView

_MOMENT = 1.0
_READINESS_MOMENT = 0.25
"""Seconds for which an answer stays good."""
_SHORT_ID = 12
_MOST_MEANT = 5
_LARGEST_COUNT = 9
"""Digits of `min-ready`."""

Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass(frozen=True)
class _Rendered:
    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"


class Reading:
    """The handlers of everything that is read.

    Args:
        service: What to tell about.
        renderer: Where metrics are rendered.
        cached: Whether an answer may be a moment old; a phase that has changed (draining) is seen at once.
    """

    def __init__(self, service: Service, renderer: ThreadPoolExecutor, *, cached: bool) -> None:
        self._service = service
        self._renderer = renderer
        self._cache = Cache()
        self._caches = cached
        self._page = importlib.resources.files("gateway.ops.page").joinpath("page.html").read_text()

    def forget(self) -> None:
        """Something was changed: what was rendered before is not given any more."""
        self._cache.clear()

    def handlers(self, *, probes_only: bool = False) -> dict[str, Handler]:
        """What answers each path."""
        return {
            path: handler.__get__(self)
            for path, (handler, _) in self.PATHS.items()
            if not probes_only or path in PROBES
        }

    async def _live(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _startup(self, _: web.Request) -> web.Response:
        done = self._service.phase() != "starting"
        return web.Response(status=200 if done else 503, text="started\n" if done else "starting\n")

    async def _ready(self, request: web.Request) -> web.Response:
        require, least = _demands(request)
        phase, details = self._service.phase(), shows_details(request)

        async def judge() -> _Rendered:
            return await _rendered(health.ready(phase, self._service.standings(), require, least, details=details))

        return await self._answer(("/readyz", phase, details, least, *require), judge, _READINESS_MOMENT)

    async def _backend_ready(self, request: web.Request) -> web.Response:
        name = request.match_info["backend"]
        for backend in self._service.standings():
            if backend.name == name:
                answer = health.backend_ready(backend, details=shows_details(request))
                return json_response(answer.body, status=answer.status)
        return unknown("backend", name)

    async def _health(self, request: web.Request) -> web.Response:
        require, least = _demands(request)

        async def judge() -> _Rendered:
            answer = health.health(await self._view(), require, least)
            return await _rendered(answer, "application/health+json; charset=utf-8")

        return await self._answer(("/health", self._service.phase(), least, *require), judge)

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")

        async def render() -> _Rendered:
            view, loop = await self._view(), asyncio.get_running_loop()
            return _Rendered(200, *await loop.run_in_executor(self._renderer, metrics.render, view, accept))

        return await self._answer(("/metrics", metrics.content_type(accept)), render)

    async def _status(self, _: web.Request) -> web.Response:
        return await self._json("/api/v1/status", service_json)

    async def _plan(self, _: web.Request) -> web.Response:
        return await self._json("/api/v1/plan", lambda view: plan_json(view.docker))

    async def _consumers(self, _: web.Request) -> web.Response:
        return await self._json("/api/v1/consumers", consumers_json)

    async def _container(self, request: web.Request) -> web.Response:
        name = request.match_info["container"]
        found = self._service.containers(name)
        if found is None:
            return json_response({"status": "unknown", "detail": "docker is not configured"}, status=404)
        if not found:
            return unknown("container", name)
        if len(found) > 1:
            meant = ", ".join(f"{each['container']} ({each['id'][:_SHORT_ID]})" for each in found[:_MOST_MEANT])
            detail = f"{name!r} is the beginning of {len(found)} IDs: {meant}"
            return json_response({"status": "ambiguous", "detail": detail}, status=409)
        return json_response(found[0])

    async def _history(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        found = self._service.history(name)
        return unknown("backend", name) if found is None else json_response({"backend": name, "targets": found})

    async def _index(self, _: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline'; frame-ancestors 'none'"}
        return web.Response(text=self._page, content_type="text/html", headers=headers)

    async def _json(self, path: str, body: Callable[[ServiceView], dict[str, Any]]) -> web.Response:
        async def render() -> _Rendered:
            return await _rendered(health.Answer(200, body(await self._view())))

        return await self._answer((path, self._service.phase()), render)

    async def _view(self) -> ServiceView:
        if not self._caches:
            return await self._service.view()
        view: ServiceView = await self._cache.get(("view", self._service.phase()), _MOMENT, self._service.view)
        return view

    async def _answer(
        self, key: Hashable, compute: Callable[[], Awaitable[_Rendered]], moment: float = _MOMENT
    ) -> web.Response:
        found: _Rendered = await (self._cache.get(key, moment, compute) if self._caches else compute())
        return web.Response(status=found.status, body=found.body, headers={"Content-Type": found.content_type})

    PATHS: ClassVar[dict[str, tuple[Any, Role]]] = {
        "/livez": (_live, Role.PROBES),
        "/healthz": (_live, Role.PROBES),
        "/startupz": (_startup, Role.PROBES),
        "/readyz": (_ready, Role.PROBES),
        "/readyz/{backend}": (_backend_ready, Role.PROBES),
        "/health": (_health, Role.EVERYTHING),
        "/metrics": (_metrics, Role.METRICS),
        "/api/v1/status": (_status, Role.EVERYTHING),
        "/api/v1/checks/{name}/history": (_history, Role.EVERYTHING),
        "/api/v1/plan": (_plan, Role.EVERYTHING),
        "/api/v1/containers/{container}": (_container, Role.EVERYTHING),
        "/api/v1/consumers": (_consumers, Role.EVERYTHING),
        "/": (_index, Role.PROBES),
    }


ROLES = {path: role for path, (_, role) in Reading.PATHS.items()}
"""What each path needs; the page itself holds nothing, and asks for a token where its data need one."""
PROBES = tuple(path for path, role in ROLES.items() if role is Role.PROBES and path != "/")
"""The paths of `ops.probe_listen`."""


async def _rendered(answer: health.Answer, content_type: str = _Rendered.content_type) -> _Rendered:
    return _Rendered(answer.status, await in_turns(written(answer.body)), content_type)


def json_response(body: object, *, status: int = 200) -> web.Response:
    """A small JSON answer."""
    return web.Response(
        text=json.dumps(body, indent=1, allow_nan=False) + "\n", status=status, content_type="application/json"
    )


def unknown(what: str, name: str) -> web.Response:
    """404 for a name that the configuration does not have."""
    return json_response({"status": "unknown", "detail": f"there is no {what} {name!r}"}, status=404)


def _demands(request: web.Request) -> tuple[list[str], int]:
    require = [name for text in request.query.getall("require", []) for name in text.split(",") if name]
    text = request.query.get("min-ready", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= _LARGEST_COUNT):
        raise web.HTTPBadRequest(text="min-ready: must be a whole number\n")
    return require, int(text)
