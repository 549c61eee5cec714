"""Handles all GET requests to the ops server. Creates the responses from data in memory, and caches them."""

import asyncio
import importlib.resources
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

from aiohttp import web

from gateway.contracts.states import ServicePhase
from gateway.ops import health_responses, metrics
from gateway.ops.authorization import AccessRole
from gateway.ops.authorization_middleware import may_see_details
from gateway.ops.check_history_json import check_history_json
from gateway.ops.container_access_json import container_access_json
from gateway.ops.event_streams import EventStreams
from gateway.ops.fleet_json import discovery_json, fleet_json, summary_json
from gateway.ops.json_responses import json_response, not_found
from gateway.ops.page_handlers import PageHandlers
from gateway.ops.response_cache import ResponseCache, encode_in_slices
from gateway.ops.service_interface import ServiceInterface
from gateway.ops.status_json import consumers_json, iter_json, plan_json, service_json
from gateway.ops.status_view_cache import StatusViewCache
from gateway.ops.status_views import BackendStateSummary, ServiceView

_MAX_AGE = 1.0
"""Seconds for which most responses are cached."""
_READINESS_MAX_AGE = 0.25
"""Seconds for which responses of `/readyz` are cached."""
_SHORT_ID = 12
_MAX_MATCHES = 5
"""Maximum number of matching containers in the error message for an ambiguous name or ID."""
_MAX_DIGITS = 9
"""Maximum number of digits of the query parameter `min-ready`."""

RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class _RenderedResponse:
    """A rendered response body, with its status and content type."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"


class HttpGetHandlers:
    """Handles the GET requests of the ops server.

    Args:
        service: The service whose state the responses describe.
        views: Provides views of the service's state.
        executor: An executor with one thread, which renders the metrics and compresses large pages.
        cached: Whether to cache responses. If a response depends on the service's phase, such as that of `/readyz`,
            the cache has separate entries for each phase, so that the response changes immediately with the phase.
        max_streams: Maximum number of concurrent event streams (`/api/v1/events`).
    """

    def __init__(
        self,
        service: ServiceInterface,
        views: StatusViewCache,
        executor: ThreadPoolExecutor,
        *,
        cached: bool,
        max_streams: int,
    ) -> None:
        self._service = service
        self._executor = executor
        self._cache = ResponseCache()
        self._cached = cached
        self._views = views
        self._pages = PageHandlers(service, self._views, executor, max_age=_MAX_AGE if cached else 0.0)
        self._streams = EventStreams(service.events, max_streams)
        self._api = importlib.resources.files("gateway.ops").joinpath("openapi.yaml").read_bytes()

    def clear_cache(self) -> None:
        """Remove all cached responses. Call this method after a command has changed the state."""
        self._cache.clear()
        self._views.clear()

    async def close_streams(self, _: web.Application) -> None:
        """End the event streams, because the server is stopping."""
        self._streams.close()

    def handlers(self, *, probes_only: bool = False) -> dict[str, RequestHandler]:
        """Return a dictionary that maps each URL path to its handler.

        Args:
            probes_only: Whether to return only the handlers of the URL paths that `ops.probe_listen` serves.
        """
        return {
            path: handler.__get__(self)
            for path, (handler, _) in self.PATHS.items()
            if not probes_only or path in PROBES
        }

    async def _live(self, _: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _startup(self, _: web.Request) -> web.Response:
        done = self._service.phase() is not ServicePhase.STARTING
        return web.Response(status=200 if done else 503, text="started\n" if done else "starting\n")

    async def _ready(self, request: web.Request) -> web.Response:
        require, min_ready = _readiness_query(request)
        phase, details = self._service.phase(), may_see_details(request)

        async def compute() -> _RenderedResponse:
            backends = list((await self._backend_statuses()).values())
            return await _render(health_responses.readiness(phase, backends, require, min_ready, details=details))

        return await self._respond(("/readyz", phase, details, min_ready, *require), compute, _READINESS_MAX_AGE)

    async def _backend_ready(self, request: web.Request) -> web.Response:
        name = request.match_info["backend"]
        backend = (await self._backend_statuses()).get(name)
        if backend is None:
            return not_found("backend", name)
        response = health_responses.backend_readiness(backend, details=may_see_details(request))
        return json_response(response.body, status=response.status)

    async def _backend_statuses(self) -> Mapping[str, BackendStateSummary]:
        """Return the states of the backends by name, at most `_READINESS_MAX_AGE` old.

        A client can vary the names in its requests. Without this cache, each name would cost a computation of all
        states.
        """

        async def compute() -> Mapping[str, BackendStateSummary]:
            return {each.name: each for each in self._service.backend_statuses()}

        if not self._cached:
            return await compute()
        found: Mapping[str, BackendStateSummary] = await self._cache.get(
            ("backend statuses", self._service.phase()), _READINESS_MAX_AGE, compute
        )
        return found

    async def _health(self, request: web.Request) -> web.Response:
        require, min_ready = _readiness_query(request)

        async def compute() -> _RenderedResponse:
            response = health_responses.health(await self._view(), require, min_ready)
            return await _render(response, "application/health+json; charset=utf-8")

        return await self._respond(("/health", self._service.phase(), min_ready, *require), compute)

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")

        async def compute() -> _RenderedResponse:
            view, loop = await self._view(), asyncio.get_running_loop()
            return _RenderedResponse(200, *await loop.run_in_executor(self._executor, metrics.render, view, accept))

        return await self._respond(("/metrics", metrics.content_type(accept)), compute)

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
            return json_response({"status": "unknown", "detail": "Docker is not configured"}, status=404)
        if not found:
            return not_found("container", name)
        if len(found) > 1:
            matches = ", ".join(
                f"{each.explanation.container} ({each.explanation.id[:_SHORT_ID]})" for each in found[:_MAX_MATCHES]
            )
            detail = f"{name!r} matches {len(found)} containers, use more characters of the ID: {matches}"
            return json_response({"status": "ambiguous", "detail": detail}, status=409)
        return json_response(container_access_json(found[0]))

    async def _history(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        found = self._service.history(name)
        if found is None:
            return not_found("backend", name)
        return _response(await _render(health_responses.JsonObjectResponse(200, check_history_json(name, found))))

    async def _summary(self, _: web.Request) -> web.Response:
        return await self._json("/api/v1/summary", summary_json)

    async def _fleet(self, _: web.Request) -> web.Response:
        async def compute() -> _RenderedResponse:
            return await _render(
                health_responses.JsonObjectResponse(200, fleet_json(self._service.fleet(), time.time()))
            )

        return await self._respond("/api/v1/fleet", compute)

    async def _discovery(self, _: web.Request) -> web.Response:
        fleet = self._service.fleet()
        if not fleet.is_discovered:
            # After an error, Prometheus keeps its targets. After an empty list, it would remove them.
            return json_response(
                {"status": "starting", "detail": "the first discovery of the fleet has not finished"}, status=503
            )
        return json_response(discovery_json(fleet))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        return await self._streams.respond(request)

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=self._api, content_type="application/yaml", charset="utf-8")

    async def _index(self, request: web.Request) -> web.Response:
        return await self._pages.index(request)

    async def _fleet_page(self, request: web.Request) -> web.Response:
        return await self._pages.fleet(request)

    async def _backend_page(self, request: web.Request) -> web.Response:
        return await self._pages.backend(request)

    async def _json(self, path: str, body: Callable[[ServiceView], dict[str, Any]]) -> web.Response:
        async def compute() -> _RenderedResponse:
            return await _render(health_responses.JsonObjectResponse(200, body(await self._view())))

        return await self._respond((path, self._service.phase()), compute)

    async def _view(self) -> ServiceView:
        return (await self._views.get(_MAX_AGE if self._cached else 0.0)).view

    async def _respond(
        self, key: Hashable, compute: Callable[[], Awaitable[_RenderedResponse]], max_age: float = _MAX_AGE
    ) -> web.Response:
        found: _RenderedResponse = await (self._cache.get(key, max_age, compute) if self._cached else compute())
        return _response(found)

    PATHS: ClassVar[dict[str, tuple[Any, AccessRole]]] = {
        "/livez": (_live, AccessRole.PROBES),
        "/healthz": (_live, AccessRole.PROBES),
        "/startupz": (_startup, AccessRole.PROBES),
        "/readyz": (_ready, AccessRole.PROBES),
        "/readyz/{backend}": (_backend_ready, AccessRole.PROBES),
        "/health": (_health, AccessRole.EVERYTHING),
        "/metrics": (_metrics, AccessRole.METRICS),
        "/api/v1/status": (_status, AccessRole.EVERYTHING),
        "/api/v1/checks/{name}/history": (_history, AccessRole.EVERYTHING),
        "/api/v1/plan": (_plan, AccessRole.EVERYTHING),
        "/api/v1/containers/{container}": (_container, AccessRole.EVERYTHING),
        "/api/v1/consumers": (_consumers, AccessRole.EVERYTHING),
        "/api/v1/summary": (_summary, AccessRole.EVERYTHING),
        "/api/v1/fleet": (_fleet, AccessRole.EVERYTHING),
        "/api/v1/sd": (_discovery, AccessRole.METRICS),
        "/api/v1/events": (_events, AccessRole.EVERYTHING),
        "/openapi.yaml": (_openapi, AccessRole.PROBES),
        "/": (_index, AccessRole.PROBES),
        "/fleet": (_fleet_page, AccessRole.PROBES),
        "/backends/{name}": (_backend_page, AccessRole.PROBES),
    }


ROLES = {path: role for path, (_, role) in HttpGetHandlers.PATHS.items()}
"""The access role that each URL path requires. The HTML pages require no access role, but a client without
`AccessRole.EVERYTHING` gets only a page that prompts for a token."""
PROBES = ("/livez", "/healthz", "/startupz", "/readyz", "/readyz/{backend}")
"""The URL paths that `ops.probe_listen` serves."""


def _response(rendered: _RenderedResponse) -> web.Response:
    headers = {"Content-Type": rendered.content_type}
    return web.Response(status=rendered.status, body=rendered.body, headers=headers)


async def _render(
    response: health_responses.JsonObjectResponse, content_type: str = _RenderedResponse.content_type
) -> _RenderedResponse:
    return _RenderedResponse(response.status, await encode_in_slices(iter_json(response.body)), content_type)


def _readiness_query(request: web.Request) -> tuple[list[str], int]:
    """Return the values of the query parameters `require` and `min-ready`.

    Raises:
        HTTPBadRequest: `min-ready` is not a non-negative integer, or has more than `_MAX_DIGITS` digits.
    """
    require = [name for text in request.query.getall("require", []) for name in text.split(",") if name]
    text = request.query.get("min-ready", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise web.HTTPBadRequest(text="min-ready: must be a non-negative integer\n")
    return require, int(text)
