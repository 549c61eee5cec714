"""Caches responses for a short time, so that many concurrent clients cause little more work than one client."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_SLICE = 0.0002
"""Number of seconds after which the computation of a response yields to the event loop."""


@dataclass
class _CacheEntry:
    """A response in the cache.

    Args:
        task: The task that computes the response, or has computed it.
        started: The monotonic time at which the task started, in seconds.
        max_age: Maximum age of the response, in seconds.
    """

    task: "asyncio.Task[Any]"
    started: float
    max_age: float


class ResponseCache:
    """Computes each response once, and returns it to all clients until it expires.

    The age of a response is the time since its computation started (monotonic clock).
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, _CacheEntry] = {}

    async def get(self, key: Hashable, max_age: float, compute: Callable[[], Awaitable[Any]]) -> Any:
        """Return the response for `key`, from the cache if possible.

        If one caller is cancelled, the computation continues for the other callers.

        Args:
            key: Identifies the response.
            max_age: Maximum age of a cached response, in seconds.
            compute: Computes the response. If it raises an exception, all waiting callers get the exception, and the
                next call computes the response again.
        """
        now = time.monotonic()
        entry = self._entries.get(key)
        if entry is None or self._is_expired(entry, now):
            self._entries = {each: held for each, held in self._entries.items() if not self._is_expired(held, now)}
            task = asyncio.ensure_future(_call(compute))
            # Retrieve the task's exception. Otherwise, asyncio would log an error if all callers are cancelled.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            entry = self._entries[key] = _CacheEntry(task, now, max_age)
        return await asyncio.shield(entry.task)

    def clear(self) -> None:
        """Remove all responses. Call this method after the state has changed.

        Pending calls of `get` still return their results.
        """
        self._entries = {}

    @staticmethod
    def _is_expired(entry: _CacheEntry, now: float) -> bool:
        if not entry.task.done():
            return False
        failed = entry.task.cancelled() or entry.task.exception() is not None
        return failed or now - entry.started >= entry.max_age


async def _call(compute: Callable[[], Awaitable[Any]]) -> Any:
    return await compute()


async def encode_in_slices(parts: Iterator[str]) -> bytes:
    """Join the strings of an iterator, and return them in UTF-8. Yield to the event loop every 0.2 ms."""
    return "".join(await collect_in_slices(parts)).encode()


async def collect_in_slices(items: Iterator[_Item]) -> list[_Item]:
    """Return the items of an iterator as a list. Iteration can be slow, so yield to the event loop every 0.2 ms."""
    done: list[_Item] = []
    started = time.perf_counter()
    for each in items:
        done.append(each)
        if time.perf_counter() - started > _SLICE:
            await asyncio.sleep(0)
            started = time.perf_counter()
    return done
