"""Caches responses for a short time, so that many concurrent clients need little more CPU time than one client."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_SLICE = 0.0002
"""Maximum number of seconds for which computing a response is allowed to block the event loop."""


@dataclass
class _Entry:
    """A cached response, or its pending computation."""

    task: "asyncio.Task[Any]"
    started: float
    max_age: float


class ResponseCache:
    """Computes a response once for all clients that request it until it expires.

    The age of a response is the time since its computation started (monotonic clock).
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}

    async def get(self, key: Hashable, max_age: float, compute: Callable[[], Awaitable[Any]]) -> Any:
        """Return the response for `key`. Cancelling one caller does not cancel the computation.

        Args:
            key: Identifies the response.
            max_age: Maximum age of a cached response, in seconds.
            compute: Computes the response. An exception of `compute` is raised in all waiting callers, and is not
                cached.
        """
        now = time.monotonic()
        entry = self._entries.get(key)
        if entry is None or self._is_expired(entry, now):
            self._entries = {each: held for each, held in self._entries.items() if not self._is_expired(held, now)}
            task = asyncio.ensure_future(_call(compute))
            # Mark the exception as retrieved. Otherwise, asyncio would log it if all callers were cancelled.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            entry = self._entries[key] = _Entry(task, now, max_age)
        return await asyncio.shield(entry.task)

    def clear(self) -> None:
        """Remove all responses, because the state has changed. Pending computations still return to their callers."""
        self._entries = {}

    @staticmethod
    def _is_expired(entry: _Entry, now: float) -> bool:
        if not entry.task.done():
            return False
        failed = entry.task.cancelled() or entry.task.exception() is not None
        return failed or now - entry.started >= entry.max_age


async def _call(compute: Callable[[], Awaitable[Any]]) -> Any:
    return await compute()


async def encode_in_slices(parts: Iterator[str]) -> bytes:
    """Join the parts, and return the result in UTF-8. Yield to the event loop after each 0.2 ms."""
    return "".join(await collect_in_slices(parts)).encode()


async def collect_in_slices(items: Iterator[_Item]) -> list[_Item]:
    """Return all items of an iterator that computes them. Yield to the event loop after each 0.2 ms."""
    done: list[_Item] = []
    started = time.perf_counter()
    for each in items:
        done.append(each)
        if time.perf_counter() - started > _SLICE:
            await asyncio.sleep(0)
            started = time.perf_counter()
    return done
