"""Handles requests for the HTML pages: status, backends and fleet."""

import asyncio
import gzip
import importlib
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from gateway.ops.access_middleware import may_see_details
from gateway.ops.page.row_cache import RowCache
from gateway.ops.response_cache import ResponseCache, encode_in_slices
from gateway.ops.service_interface import ControlledService
from gateway.ops.status_views import ServiceView

_MAX_AGE = 1.0
"""Seconds for which a page is cached, unless an event occurs during this time."""
_RENDERER = "gateway.ops.page.render"
_Result = TypeVar("_Result")
_COMPRESSION = 1
"""The gzip level. Higher levels take several times as long, and reduce the size of a page only a little."""


@dataclass(frozen=True)
class _Page:
    """A rendered page, which all clients share: its HTML in UTF-8, and the HTML compressed with gzip."""

    body: bytes
    compressed: bytes


class PageHandlers:
    """Responds with HTML pages. Without authorization, a page contains no data, and prompts for the token.

    Args:
        service: The service whose state the pages show.
        cache: The cache for rendered pages; None to render each response.
        executor: Compresses responses.
    """

    def __init__(self, service: ControlledService, cache: ResponseCache | None, executor: Executor) -> None:
        self._service = service
        self._cache = cache
        self._executor = executor
        self._rows = RowCache()

    async def index(self, request: web.Request) -> web.Response:
        """Respond with the status page."""

        def render(view: ServiceView) -> Iterator[str]:
            from gateway.ops.page.render import render_index  # noqa: PLC0415 - `_respond` has imported it

            service = self._service
            return render_index(view, service.events.latest(), service.configuration(), time.time(), self._rows)

        return await self._respond(request, "/", "", render)

    async def backend(self, request: web.Request) -> web.Response:
        """Respond with the page of one backend."""
        name = request.match_info["name"]

        def render(view: ServiceView) -> Iterator[str] | None:
            from gateway.ops.page.render import render_backend  # noqa: PLC0415 - as above

            service = self._service
            backend = next((each for each in view.backends if each.name == name), None)
            if backend is None:
                return None
            return render_backend(view, backend, service.events.latest(), service.configuration(name), time.time())

        return await self._respond(request, f"/backends/{name}", "../", render)

    async def fleet(self, request: web.Request) -> web.Response:
        """Respond with the page of the fleet."""

        def render(view: ServiceView) -> Iterator[str]:
            from gateway.ops.page.render import render_fleet  # noqa: PLC0415 - as above

            return render_fleet(view, self._service.fleet(), self._service.events.latest(), time.time())

        return await self._respond(request, "/fleet", "", render)

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
        # The templates and their library need 5 MB, so they are imported on first use. The import is slow, so it runs
        # in a thread and does not block the event loop.
        if _RENDERER not in sys.modules:
            await asyncio.to_thread(importlib.import_module, _RENDERER)
        from gateway.ops.page.render import SECURITY_POLICY, render_login, render_missing  # noqa: PLC0415 - as above

        async def compute() -> _Page | None:
            parts = render(await self._cached("view", self._service.view))
            if parts is None:
                return None
            body = await encode_in_slices(parts)
            loop = asyncio.get_running_loop()
            return _Page(body, await loop.run_in_executor(self._executor, gzip.compress, body, _COMPRESSION))

        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": SECURITY_POLICY,
            "Referrer-Policy": "no-referrer",
        }
        if not may_see_details(request):
            return web.Response(body=render_login(root).encode(), headers=headers)
        page = await self._cached(path, compute)
        if page is None:
            return web.Response(status=404, body=render_missing(root).encode(), headers=headers)
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=page.compressed, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=page.body, headers=headers)

    async def _cached(self, name: str, compute: Callable[[], Awaitable[_Result]]) -> _Result:
        """Return a cached result. Compute it if it is too old, or older than the last event or change of phase."""
        if self._cache is None:
            return await compute()
        key = (name, self._service.phase(), self._service.events.last_id)
        result: _Result = await self._cache.get(key, _MAX_AGE, compute)
        return result
