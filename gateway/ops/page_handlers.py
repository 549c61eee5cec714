"""Handles HTTP requests for the HTML pages: status, backend and fleet."""

import asyncio
import importlib
import sys
import time
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.ops.authorization_middleware import may_see_details
from gateway.ops.service_interface import ServiceInterface
from gateway.ops.status_view_cache import StatusViewCache
from gateway.ops.status_views import ServiceView

if TYPE_CHECKING:
    from gateway.ops.page.cached_page import CachedPage, RenderPage
    from gateway.ops.page.page_parts import PageParts
    from gateway.ops.page.render import LazyPage

_RENDERER = "gateway.ops.page.cached_page"
_MAX_PAGES = 32
"""Maximum number of rendered pages in memory. After the gateway has removed a page from memory, the next response to
each client contains the whole page instead of only the changed parts."""


class PageHandlers:
    """Handles requests for HTML pages. Clients without authorization get a page that prompts for a token.

    Args:
        service: The service whose state the pages show.
        views: Provides views of the service's state.
        executor: Compresses large responses in a thread.
        max_age: Maximum age of the content, in seconds, when the response is a whole page.
    """

    def __init__(self, service: ServiceInterface, views: StatusViewCache, executor: Executor, max_age: float) -> None:
        self._service = service
        self._views = views
        self._executor = executor
        self._max_age = max_age
        self._pages: dict[str, CachedPage] = {}
        """The rendered pages by URL path, in the order of their last requests."""

    async def index(self, request: web.Request) -> web.Response:
        """Respond with the status page."""

        def render(view: ServiceView, parts: "PageParts") -> "LazyPage":
            from gateway.ops.page.render import render_index  # noqa: PLC0415 - lazy import

            service = self._service
            return render_index(view, service.events.latest(), service.configuration(), time.time(), parts)

        return await self._respond(request, "/", "", render)

    async def backend(self, request: web.Request) -> web.Response:
        """Respond with the page of one backend."""
        name = request.match_info["name"]

        def render(view: ServiceView, parts: "PageParts") -> "LazyPage | None":
            from gateway.ops.page.render import render_backend  # noqa: PLC0415 - lazy import

            service = self._service
            backend = next((each for each in view.backends if each.name == name), None)
            if backend is None:
                return None
            events, configuration = service.events.latest(), service.configuration(name)
            return render_backend(view, backend, events, configuration, time.time(), parts)

        return await self._respond(request, f"/backends/{name}", "../", render)

    async def fleet(self, request: web.Request) -> web.Response:
        """Respond with the page of the fleet."""

        def render(view: ServiceView, parts: "PageParts") -> "LazyPage":
            from gateway.ops.page.render import render_fleet  # noqa: PLC0415 - lazy import

            return render_fleet(view, self._service.fleet(), time.time(), parts)

        return await self._respond(request, "/fleet", "", render)

    async def _respond(self, request: web.Request, path: str, root: str, render: "RenderPage") -> web.Response:
        """Respond with a page. If the query contains the version that the client has, send only the changed parts.

        Args:
            request: The request.
            path: The URL path of the page.
            root: The URL of `/`, relative to the page.
            render: Renders the page.
        """
        # Import the templates on first use, because they and their library need 5 MB. Import them in a thread,
        # because the import is slow and would block the event loop.
        if _RENDERER not in sys.modules:
            await asyncio.to_thread(importlib.import_module, _RENDERER)
        from gateway.ops.page.render import render_login, render_missing  # noqa: PLC0415 - lazy import
        from gateway.ops.page.templates import SECURITY_POLICY  # noqa: PLC0415 - lazy import

        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": SECURITY_POLICY,
            "Referrer-Policy": "no-referrer",
        }
        if not may_see_details(request):
            return web.Response(body=render_login(root).encode(), headers=headers)
        response = await self._page(path, root).get(request.query.get("since", ""), render)
        if response is None:
            self._pages.pop(path, None)
            return web.Response(status=404, body=render_missing(root).encode(), headers=headers)
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=response.compressed, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=response.body, headers=headers)

    def _page(self, path: str, root: str) -> "CachedPage":
        """Return the cached page of a URL path. If the URL path has no cached page, create one.

        If the cache already contains `_MAX_PAGES` other pages, remove the least recently requested page.

        Args:
            path: The URL path of the page.
            root: The URL of `/`, relative to the page.
        """
        from gateway.ops.page.cached_page import CachedPage  # noqa: PLC0415 - lazy import

        page = self._pages.pop(path, None) or CachedPage(self._views, self._executor, root, self._max_age)
        if len(self._pages) == _MAX_PAGES:
            del self._pages[next(iter(self._pages))]
        self._pages[path] = page
        return page
