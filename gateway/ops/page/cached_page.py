"""Renders an HTML page once for all clients, and returns to each client only the parts that the client does not have.

Splits the work into steps of less than a millisecond, and yields to the event loop between steps. The steps
therefore hardly delay client traffic.
"""

import asyncio
import gzip
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

from gateway.ops.page.page_parts import PageParts
from gateway.ops.page.render import LazyPage, document
from gateway.ops.response_cache import collect_in_slices
from gateway.ops.status_view_cache import StatusViewCache
from gateway.ops.status_views import ServiceView

RenderPage = Callable[[ServiceView, PageParts], LazyPage | None]
"""Renders a page from a view of the service's state. Reuses parts that have not changed since the last rendering.
Returns None if the page does not exist."""
_UPDATE_AGE = 3.0
"""Maximum age, in seconds, of the counters in an update of an open page. It is higher than for a complete page,
because open pages request updates often, and collecting all counters is slow."""
_COMPRESSION = 1
"""The gzip level. Higher levels take several times as long, but pages become only slightly smaller."""
_LARGE = 32768
"""Minimum size, in bytes, of a response that is compressed in a thread. For a smaller response, passing it to a
thread takes longer than compressing it."""
_MAX_RESPONSES = 16
"""Maximum number of cached responses of a page. A few are enough, because most clients have the same version."""


@dataclass(frozen=True)
class PageResponse:
    """The HTML of a page in UTF-8, uncompressed and compressed with gzip."""

    body: bytes
    compressed: bytes


class CachedPage:
    """Renders one HTML page for all clients, and caches the responses.

    Args:
        views: Provides views of the service's state, which the page shows.
        executor: Compresses large responses in a thread.
        root: The URL of `/`, relative to the page.
        max_age: Maximum age of the content of a whole page, in seconds.
    """

    def __init__(self, views: StatusViewCache, executor: Executor, root: str, max_age: float) -> None:
        self._views = views
        self._executor = executor
        self._root = root
        self._max_age = max_age
        self._lock = asyncio.Lock()
        self._parts = PageParts()
        self._title = ""
        self._event = 0
        self._view_number = 0
        """`VersionedStatusView.number` of the latest rendered view; 0 before the first rendering. The view itself is
        not stored, so that its memory can be freed."""
        self._rendered = 0.0
        """Monotonic time of the last rendering, in seconds."""
        self._responses: dict[int | None, PageResponse] = {}
        """The cached responses with the current content. The key is the version that the client already has. The
        response with the key None contains the whole page."""

    async def get(self, since: str, render: RenderPage) -> PageResponse | None:
        """Return the whole page, or an update with the changed parts; None if the page does not exist.

        Args:
            since: The version that the client has. For an unknown version, the response is the whole page.
            render: Renders the page.
        """
        async with self._lock:
            known = self._parts.known_version(since)
            if not await self._update(self._max_age if known is None else _UPDATE_AGE, render):
                return None
            response = self._responses.get(known)
            if response is None:
                if len(self._responses) == _MAX_RESPONSES:
                    self._responses.clear()
                response = self._responses[known] = await self._respond(known)
            return response

    async def _update(self, max_age: float, render: RenderPage) -> bool:
        """Render the page again, if its content might have changed. Return whether the page exists.

        If this call is cancelled, the page keeps its previous content.
        """
        now = time.monotonic()
        view, event, number = await self._views.get(max_age)
        if number == self._view_number and now - self._rendered < self._max_age:
            return True
        await asyncio.sleep(0)
        rendering = render(view, self._parts)
        if rendering is None:
            return False
        await asyncio.sleep(0)
        items = await collect_in_slices(rendering.items)
        await asyncio.sleep(0)
        self._parts.commit(items)
        self._title, self._event, self._view_number, self._rendered = rendering.title, event, number, now
        self._responses.clear()
        return True

    async def _respond(self, since: int | None) -> PageResponse:
        await asyncio.sleep(0)
        content = self._parts.html(since)
        await asyncio.sleep(0)
        version = self._parts.version
        text = document(self._title, self._root, self._event, version, content, whole=since is None)
        await asyncio.sleep(0)
        body = text.encode()
        if len(body) < _LARGE:
            return PageResponse(body, gzip.compress(body, _COMPRESSION))
        loop = asyncio.get_running_loop()
        return PageResponse(body, await loop.run_in_executor(self._executor, gzip.compress, body, _COMPRESSION))
