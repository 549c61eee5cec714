"""How many connections a listener of the ops server holds, and which one makes room for the next. Pure."""

import resource
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

_MOST = 64
_SHARE = 8
"""A listener takes at most this part of the descriptors that the process may have."""
_LEAST = 8

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Limits:
    """What one listener permits; durations in seconds.

    Args:
        connections: At once, in all.
        of_one: At once, of one peer address.
        head: From the accept, or from the first byte of a further request, to the end of its headers.
        idle: Between two requests of a connection.
        answer: From the end of the headers to the last byte of the response.
        head_bytes: Of one request, a body included.
    """

    connections: int
    of_one: int
    head: float = 5.0
    idle: float = 75.0
    answer: float = 30.0
    head_bytes: int = 16 * 1024


def limits(descriptors: int, answer: float = 30.0) -> Limits:
    """The limits of a listener in a process with this RLIMIT_NOFILE."""
    most = _MOST if descriptors == resource.RLIM_INFINITY else max(_LEAST, min(_MOST, descriptors // _SHARE))
    return Limits(connections=most, of_one=most // 2, answer=answer)


class Connections(Generic[Key]):
    """The connections of one listener, least recently used first.

    Args:
        limits: The bounds.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: dict[Key, str | None] = {}
        self._answering: dict[Key, str | None] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._answering)

    def __contains__(self, key: Key) -> bool:
        return key in self._waiting or key in self._answering

    def enter(self, key: Key, address: str | None) -> Key | None:
        """Add a connection from `address` (None: a unix socket); gives the one to close for it."""
        victim = None
        if address is not None and self._of(address) >= self._limits.of_one:
            victim = self.oldest(address)
        elif len(self) >= self._limits.connections:
            victim = self.oldest()
        if victim is not None:
            self.leave(victim)
        self._waiting[key] = address
        return victim

    def answering(self, key: Key) -> None:
        """A whole request has come."""
        if key in self._waiting:
            self._answering[key] = self._waiting.pop(key)

    def answered(self, key: Key) -> None:
        """Its response is sent; the connection waits for another request."""
        if key in self._answering:
            self._waiting[key] = self._answering.pop(key)

    def leave(self, key: Key) -> None:
        """The connection has ended."""
        self._waiting.pop(key, None)
        self._answering.pop(key, None)

    def oldest(self, address: str | None = None) -> Key | None:
        """The one to close first, of all or of one address: longest without a request, else longest in its answer."""
        for group in (self._waiting, self._answering):
            for key, of in group.items():
                if address is None or of == address:
                    return key
        return None

    def __iter__(self):  # type: ignore[no-untyped-def] # noqa: ANN204
        return iter([*self._waiting, *self._answering])

    def _of(self, address: str) -> int:
        return sum(of == address for group in (self._waiting, self._answering) for of in group.values())


class Pace:
    """When the next answer may be given: at once for a few, then at a steady rate (a token bucket). Pure.

    Args:
        rate: Answers a second.
        burst: How many are given at once after a pause.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._gap = 1.0 / rate
        self._ahead = self._gap * burst
        self._due = 0.0

    def wait(self, now: float) -> float:
        """Seconds that the request that has come at `now` (a monotonic clock) has to wait; counts it."""
        self._due = max(self._due, now - self._ahead) + self._gap
        return max(0.0, self._due - now)

    def refund(self) -> None:
        """Do not count a request that was not answered: its client left while it waited."""
        self._due -= self._gap
