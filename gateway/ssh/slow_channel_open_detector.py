"""Detects CHANNEL_OPEN requests without a timely reply, with one timer for all requests of a pool."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

_C = TypeVar("_C")


class SlowChannelOpenDetector(Generic[_C]):
    """Calls a function for each connection on which a CHANNEL_OPEN request has no reply after a delay.

    All requests share one timer. Most replies arrive long before the delay ends, so a timer for each request would
    waste CPU time.

    Args:
        loop: The event loop.
        delay: The delay, in seconds.
        on_slow: Called with the connection. If several requests of one connection exceed the delay at the same time,
            the function is called only once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, delay: float, on_slow: Callable[[_C], None]) -> None:
        self._loop = loop
        self._delay = delay
        self._on_slow = on_slow
        self._pending: dict[int, tuple[float, _C]] = {}
        """The pending requests by token, oldest first. Each value contains the end of the delay (`loop.time()`), and
        the connection."""
        self._next_token = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, connection: _C) -> int:
        """Record that a CHANNEL_OPEN request starts on `connection`. Return a token to pass to `end`."""
        token = self._next_token
        self._next_token += 1
        due = self._loop.time() + self._delay
        self._pending[token] = (due, connection)
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._expire)
        return token

    def end(self, token: int) -> None:
        """Record that the CHANNEL_OPEN request with this token has succeeded or failed."""
        self._pending.pop(token, None)

    def close(self) -> None:
        """Cancel the timer, and discard all pending requests."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pending.clear()

    def _expire(self) -> None:
        expired = self._timer.when() if self._timer is not None else self._loop.time()
        self._timer = None
        slow: list[_C] = []
        for token, (due, connection) in list(self._pending.items()):
            if due > expired:
                self._timer = self._loop.call_at(due, self._expire)
                break
            del self._pending[token]
            slow.append(connection)
        for connection in dict.fromkeys(slow):
            self._on_slow(connection)
