"""Handles requests for the status page and the pages of backends."""

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from aiohttp import web

from gateway.ops.access_middleware import may_see_details
from gateway.ops.page.render import SECURITY_POLICY, render_backend, render_index, render_login, render_missing
from gateway.ops.response_cache import ResponseCache, encode_in_slices
from gateway.ops.service_interface import ControlledService
from gateway.ops.status_views import ServiceView

_MAX_AGE = 1.0
"""Seconds for which a page is cached, if there is no event meanwhile."""
_Result = TypeVar("_Result")
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
}


class PageHandlers:
    """Responds with pages. Without authorization, a page contains no data, and prompts for the token.

    Args:
        service: The service whose state the pages show.
        cache: Holds responses; None to render each response.
    """

    def __init__(self, service: ControlledService, cache: ResponseCache | None) -> None:
        self._service = service
        self._cache = cache

    async def index(self, request: web.Request) -> web.Response:
        """Respond with the status page."""

        def render(view: ServiceView) -> Iterator[str]:
            service = self._service
            return render_index(view, service.events.latest(), service.configuration(), time.time())

        return await self._respond(request, "/", "", render)

    async def backend(self, request: web.Request) -> web.Response:
        """Respond with the page of one backend."""
        name = request.match_info["name"]

        def render(view: ServiceView) -> Iterator[str] | None:
            service = self._service
            backend = next((each for each in view.backends if each.name == name), None)
            if backend is None:
                return None
            return render_backend(view, backend, service.events.latest(), service.configuration(), time.time())

        return await self._respond(request, f"/backends/{name}", "../", render)

    async def _respond(
        self, request: web.Request, path: str, root: str, render: Callable[[ServiceView], Iterator[str] | None]
    ) -> web.Response:
        """Respond with a page.

        Args:
            request: The request.
            path: The path of the page.
            root: The URL of `/`, relative to the page.
            render: Yields the parts of the page; None if the page does not exist.
        """

        async def compute() -> bytes | None:
            parts = render(await self._cached("view", self._service.view))
            return await encode_in_slices(parts) if parts is not None else None

        if not may_see_details(request):
            return web.Response(body=render_login(root).encode(), headers=_HEADERS)
        body: bytes | None = await self._cached(path, compute)
        if body is None:
            return web.Response(status=404, body=render_missing(root).encode(), headers=_HEADERS)
        return web.Response(body=body, headers=_HEADERS)

    async def _cached(self, name: str, compute: Callable[[], Awaitable[_Result]]) -> _Result:
        """Return a result that is not older than the latest event and the latest change of phase."""
        if self._cache is None:
            return await compute()
        key = (name, self._service.phase(), self._service.events.last_id)
        result: _Result = await self._cache.get(key, _MAX_AGE, compute)
        return result
