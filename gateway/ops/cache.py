"""Answers that stay good for a moment, so that many who ask cost about what one does."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

_SLICE = 0.0005
"""Seconds that rendering may hold the event loop at once."""


@dataclass
class _Entry:
    answer: "asyncio.Task[Any]"
    begun: float
    age: float


class Cache:
    """Computes each answer at most once at a time, and gives it to all who ask until it is too old.

    The age counts from the moment when its computation began (a monotonic clock).
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}

    async def get(self, key: Hashable, age: float, compute: Callable[[], Awaitable[Any]]) -> Any:
        """The answer for `key`, at most `age` seconds old; what `compute` raises is raised to all who wait for it."""
        now = time.monotonic()
        entry = self._entries.get(key)
        if entry is None or self._stale(entry, now):
            self._entries = {each: held for each, held in self._entries.items() if not self._stale(held, now)}
            answer = asyncio.ensure_future(_awaited(compute))
            answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait any more
            entry = _Entry(answer, now, age)
            self._entries[key] = entry
        return await asyncio.shield(entry.answer)

    def clear(self) -> None:
        """Forget every answer: something was changed. Those who wait still get theirs."""
        self._entries = {}

    @staticmethod
    def _stale(entry: _Entry, now: float) -> bool:
        if not entry.answer.done():
            return False
        failed = entry.answer.cancelled() or entry.answer.exception() is not None
        return failed or now - entry.begun >= entry.age


async def _awaited(compute: Callable[[], Awaitable[Any]]) -> Any:
    return await compute()


async def in_turns(parts: Iterator[str]) -> bytes:
    """The text of all parts in UTF-8, letting others run after each half millisecond."""
    done: list[str] = []
    begun = time.perf_counter()
    for part in parts:
        done.append(part)
        if time.perf_counter() - begun > _SLICE:
            await asyncio.sleep(0)
            begun = time.perf_counter()
    return "".join(done).encode()
