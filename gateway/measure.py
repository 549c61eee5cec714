"""Plain counters that hot code adds to and that a scrape reads: no metrics library below this line."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Protocol

LATENCY_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds in seconds: from a round trip on one host to the longest deadline in common use."""


class Tap(Protocol):
    """Sees the bytes of one connection pass by; what it does must not raise."""

    @property
    def finished(self) -> bool:
        """Whether it has seen enough: its relay drops it, at the backend's next bytes at the latest."""

    @property
    def meter(self) -> "Meter | None":
        """What finds requests and answers in the bytes; None: taking turns tells them apart."""

    def forth(self, data: memoryview, now: float, /) -> None:
        """The client sent `data` at the monotonic time `now`."""

    def back(self, data: memoryview, now: float, /) -> None:
        """The backend sent `data` at the monotonic time `now`."""


class Meter(Protocol):
    """Finds requests and answers in the bytes of one connection, where taking turns does not tell them apart."""

    @property
    def sense(self) -> bool:
        """Whether the bytes are what it understands."""

    def oldest(self) -> float | None:
        """When the oldest request that is not answered yet was made, as a monotonic time; None: all are answered."""


MakeTap = Callable[[Callable[[float], None]], Tap]
"""Makes one that tells each latency, in seconds, to the function that it is given."""


def waiting_since(tap: Tap | None, asked: float) -> float | None:
    """Since when a client waits for an answer, as a monotonic time; None: it waits for none.

    Args:
        tap: What sees the connection's bytes, if anything does.
        asked: When the client spoke last without an answer since; 0: never.
    """
    meter = tap.meter if tap is not None else None
    if meter is not None:
        return meter.oldest() if meter.sense else None
    return asked or None


class Histogram:
    """Counts of observations by upper bound, as Prometheus wants them.

    Args:
        bounds: Upper bounds in seconds, ascending, without the infinite one.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation, in seconds."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def copy(self) -> "Histogram":
        """A snapshot that later observations do not change."""
        other = Histogram(self.bounds)
        other.counts = self.counts.copy()
        other.sum = self.sum
        return other

    def plus(self, other: "Histogram") -> "Histogram":
        """Both together, as a snapshot."""
        both = self.copy()
        both.add(other)
        return both

    def add(self, other: "Histogram") -> None:
        """Count what `other` has counted, too; whoever observes into this one goes on."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, int]]:
        """`(le, count)` pairs ending with `+Inf`."""
        total = 0
        pairs = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            pairs.append(("+Inf" if bound == float("inf") else repr(float(bound)), total))
        return pairs


class Summary:
    """A sum and a count, for phases that need no buckets."""

    __slots__ = ("count", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation, in seconds."""
        self.count += 1
        self.sum += seconds


Tally = Counter[str]
"""Counts by a label of a closed list."""
