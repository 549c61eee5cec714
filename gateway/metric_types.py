"""Defines metric types for Prometheus: histograms and summaries measure durations, and tallies count events."""

from bisect import bisect_left
from collections import Counter

LATENCY_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the buckets, in seconds. The lowest bound is about the round-trip time on one host, and the highest
bound is the longest common timeout."""


class Histogram:
    """Counts observations in buckets, like a Prometheus histogram.

    Args:
        bounds: Upper bounds of the buckets, in seconds, in ascending order. The histogram adds a bucket for infinity.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Add one observation, in seconds."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def copy(self) -> "Histogram":
        """Return a copy that later observations do not change."""
        other = Histogram(self.bounds)
        other.counts = self.counts.copy()
        other.sum = self.sum
        return other

    def plus(self, other: "Histogram") -> "Histogram":
        """Return a new histogram with the observations of this one and `other`. Both must have the same bounds."""
        both = self.copy()
        both.add(other)
        return both

    def add(self, other: "Histogram") -> None:
        """Add the observations of `other` to this histogram. Both must have the same bounds."""
        self.counts = [own + added for own, added in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, int]]:
        """Return the buckets in the form of Prometheus: cumulative `(le, count)` pairs. The last `le` is `+Inf`."""
        total = 0
        pairs = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            pairs.append(("+Inf" if bound == float("inf") else repr(float(bound)), total))
        return pairs


class SummaryMetric:
    """Stores the number and the sum of observations, like a Prometheus summary without quantiles."""

    __slots__ = ("count", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Add one observation, in seconds."""
        self.count += 1
        self.sum += seconds


Tally = Counter[str]
"""Counts events by the value of one label, such as the reason of a failure."""
