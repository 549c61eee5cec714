"""Handles the GET requests of the health endpoints, such as `/readyz`."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from gateway.contracts.states import ServicePhase
from gateway.ops import health_responses
from gateway.ops.authorization_middleware import may_see_details
from gateway.ops.json_responses import json_response, not_found
from gateway.ops.rendered_responses import CachedResponses, RenderedResponse, render_json
from gateway.ops.service_interface import ServiceInterface
from gateway.ops.status_views import BackendStateSummary, ServiceView

_STATES_MAX_AGE = 0.1
"""Seconds for which the states of the backends are cached."""
_READINESS_MAX_AGE = 0.15
"""Seconds for which responses of `/readyz` are cached. A response is computed from cached states, so its data can be
as old as both times together."""
_MAX_DIGITS = 9
"""Maximum number of digits of the query parameter `min-ready`."""


class HealthHandlers:
    """Handles the GET requests of the health endpoints.

    Args:
        service: The service whose state the responses describe.
        responses: Caches the responses.
        view: Returns a view of the service's state.
    """

    def __init__(
        self, service: ServiceInterface, responses: CachedResponses, view: Callable[[], Awaitable[ServiceView]]
    ) -> None:
        self._service = service
        self._responses = responses
        self._view = view

    async def live(self, _: web.Request) -> web.Response:
        """Handle `GET /livez` and `GET /healthz`."""
        return web.Response(text="alive\n")

    async def startup(self, _: web.Request) -> web.Response:
        """Handle `GET /startupz`."""
        done = self._service.phase() is not ServicePhase.STARTING
        return web.Response(status=200 if done else 503, text="started\n" if done else "starting\n")

    async def ready(self, request: web.Request) -> web.Response:
        """Handle `GET /readyz`."""
        require, min_ready = _readiness_query(request)
        phase, details = self._service.phase(), may_see_details(request)

        async def compute() -> RenderedResponse:
            backends = list((await self._backend_statuses()).values())
            return await render_json(health_responses.readiness(phase, backends, require, min_ready, details=details))

        key = ("/readyz", phase, details, min_ready, *require)
        return await self._responses.respond(key, compute, _READINESS_MAX_AGE)

    async def backend_ready(self, request: web.Request) -> web.Response:
        """Handle `GET /readyz/BACKEND`."""
        name = request.match_info["backend"]
        backend = (await self._backend_statuses()).get(name)
        if backend is None:
            return not_found("backend", name)
        response = health_responses.backend_readiness(backend, details=may_see_details(request))
        return json_response(response.body, status=response.status)

    async def _backend_statuses(self) -> Mapping[str, BackendStateSummary]:
        """Return the states of the backends by name, at most `_STATES_MAX_AGE` seconds old.

        A client can vary the names in its requests. Without this cache, each name would cost a computation of all
        states.
        """

        async def compute() -> Mapping[str, BackendStateSummary]:
            return {each.name: each for each in self._service.backend_statuses()}

        key = ("backend statuses", self._service.phase())
        found: Mapping[str, BackendStateSummary] = await self._responses.get(key, compute, _STATES_MAX_AGE)
        return found

    async def health(self, request: web.Request) -> web.Response:
        """Handle `GET /health`."""
        require, min_ready = _readiness_query(request)

        async def compute() -> RenderedResponse:
            response = health_responses.health(await self._view(), require, min_ready)
            return await render_json(response, "application/health+json; charset=utf-8")

        return await self._responses.respond(("/health", self._service.phase(), min_ready, *require), compute)


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
