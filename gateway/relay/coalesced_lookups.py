"""Lets concurrent callers with the same key share one lookup, such as the resolution of a host name."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class CoalescedLookups(Generic[_K, _V]):
    """The unfinished lookups of one event loop. At most one lookup runs for each key.

    Args:
        start: Starts the lookup of a key. The result is awaited even if all callers are cancelled.
    """

    def __init__(self, start: Callable[[_K], Awaitable[_V]]) -> None:
        self._start = start
        self._pending: dict[_K, asyncio.Future[_V]] = {}

    async def result(self, key: _K) -> _V:
        """Return the result of the key's unfinished lookup. If there is none, start a lookup.

        The caller must set a deadline. If the caller is cancelled, the lookup continues.

        Raises:
            Exception: The exception of the lookup.
        """
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = asyncio.ensure_future(self._start(key))
            pending.add_done_callback(lambda done: self._remove(key, done))
        return await asyncio.shield(pending)

    def _remove(self, key: _K, done: "asyncio.Future[_V]") -> None:
        self._pending.pop(key, None)
        if not done.cancelled():
            # Mark the exception as retrieved. Otherwise, asyncio logs it if all waiting tasks were cancelled.
            done.exception()
