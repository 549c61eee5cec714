"""Handles all GET requests to the ops server. Creates the responses from data in memory, and caches them."""

import asyncio
import importlib.resources
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from aiohttp import web

from gateway.ops import metrics
from gateway.ops.authorization import AccessRole
from gateway.ops.check_history_json import check_history_json
from gateway.ops.container_access_json import container_access_json
from gateway.ops.event_streams import EventStreams
from gateway.ops.fleet_json import discovery_json, fleet_json, summary_json
from gateway.ops.health_handlers import HealthHandlers
from gateway.ops.health_responses import JsonObjectResponse
from gateway.ops.json_responses import json_response, not_found
from gateway.ops.page_handlers import PageHandlers
from gateway.ops.rendered_responses import MAX_AGE, CachedResponses, RenderedResponse, render_json
from gateway.ops.service_interface import ServiceInterface
from gateway.ops.status_json import consumers_json, plan_json, service_json
from gateway.ops.status_view_cache import StatusViewCache
from gateway.ops.status_views import ServiceView

_SHORT_ID = 12
_MAX_MATCHES = 5
"""Maximum number of matching containers in the error message for an ambiguous name or ID."""

RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpGetHandlers:
    """Handles the GET requests of the ops server.

    Args:
        service: The service whose state the responses describe.
        views: Provides views of the service's state.
        executor: An executor with one thread, which renders the metrics and compresses large pages.
        cached: Whether to cache responses. If a response, such as that of `/readyz`, depends on the service's phase,
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
        self._responses = CachedResponses(enabled=cached)
        self._views = views
        self._max_age = MAX_AGE if cached else 0.0
        self._health_handlers = HealthHandlers(service, self._responses, self._view)
        self._pages = PageHandlers(service, self._views, executor, max_age=self._max_age)
        self._streams = EventStreams(service.events, max_streams)
        self._api = importlib.resources.files("gateway.ops").joinpath("openapi.yaml").read_bytes()

    def clear_cache(self) -> None:
        """Remove all cached responses. Call this method after a command has changed the state."""
        self._responses.clear()
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

    async def _live(self, request: web.Request) -> web.Response:
        return await self._health_handlers.live(request)

    async def _startup(self, request: web.Request) -> web.Response:
        return await self._health_handlers.startup(request)

    async def _ready(self, request: web.Request) -> web.Response:
        return await self._health_handlers.ready(request)

    async def _backend_ready(self, request: web.Request) -> web.Response:
        return await self._health_handlers.backend_ready(request)

    async def _health(self, request: web.Request) -> web.Response:
        return await self._health_handlers.health(request)

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")

        async def compute() -> RenderedResponse:
            view, loop = await self._view(), asyncio.get_running_loop()
            return RenderedResponse(200, *await loop.run_in_executor(self._executor, metrics.render, view, accept))

        return await self._responses.respond(("/metrics", metrics.content_type(accept)), compute)

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
        return (await render_json(JsonObjectResponse(200, check_history_json(name, found)))).to_http()

    async def _summary(self, _: web.Request) -> web.Response:
        return await self._json("/api/v1/summary", summary_json)

    async def _fleet(self, _: web.Request) -> web.Response:
        async def compute() -> RenderedResponse:
            return await render_json(JsonObjectResponse(200, fleet_json(self._service.fleet(), time.time())))

        return await self._responses.respond("/api/v1/fleet", compute)

    async def _discovery(self, _: web.Request) -> web.Response:
        fleet = self._service.fleet()
        if not fleet.is_discovered:
            # After an error, Prometheus keeps its targets. After an empty list, it would remove them.
            return json_response(
                {"status": "starting", "detail": "the members of the fleet are not known yet"}, status=503
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
        async def compute() -> RenderedResponse:
            return await render_json(JsonObjectResponse(200, body(await self._view())))

        return await self._responses.respond((path, self._service.phase()), compute)

    async def _view(self) -> ServiceView:
        return (await self._views.get(self._max_age)).view

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
