"""Renders the bodies of responses, and caches the rendered responses for a short time."""

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from gateway.ops.health_responses import JsonObjectResponse
from gateway.ops.response_cache import ResponseCache, encode_in_slices
from gateway.ops.status_json import iter_json

MAX_AGE = 1.0
"""Seconds for which most responses are cached."""


@dataclass(frozen=True)
class RenderedResponse:
    """A rendered response body, with its status and content type."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"

    def to_http(self) -> web.Response:
        """Return the HTTP response."""
        return web.Response(status=self.status, body=self.body, headers={"Content-Type": self.content_type})


async def render_json(
    response: JsonObjectResponse, content_type: str = RenderedResponse.content_type
) -> RenderedResponse:
    """Encode a JSON object. Yield to the event loop regularly."""
    return RenderedResponse(response.status, await encode_in_slices(iter_json(response.body)), content_type)


class CachedResponses:
    """Computes responses and other values, and caches them.

    Args:
        enabled: Whether to cache. If not, each request computes its value.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._cache = ResponseCache()

    def clear(self) -> None:
        """Remove all cached values."""
        self._cache.clear()

    async def get(self, key: Hashable, compute: Callable[[], Awaitable[Any]], max_age: float = MAX_AGE) -> Any:
        """Return the value for `key`, at most `max_age` seconds old; see `ResponseCache.get`."""
        return await (self._cache.get(key, max_age, compute) if self._enabled else compute())

    async def respond(
        self, key: Hashable, compute: Callable[[], Awaitable[RenderedResponse]], max_age: float = MAX_AGE
    ) -> web.Response:
        """Return the HTTP response for `key`, at most `max_age` seconds old."""
        found: RenderedResponse = await self.get(key, compute, max_age)
        return found.to_http()
