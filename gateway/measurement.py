"""Defines fast histograms and counters, and the interface of taps, which measure the bytes of connections."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Protocol

LATENCY_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the buckets, in seconds: from the round-trip time on one host to the longest common timeout."""


class Tap(Protocol):
    """Defines the interface of objects that observe the bytes of one connection. The methods raise no errors."""

    @property
    def finished(self) -> bool:
        """Whether the tap needs no more bytes. The relay removes a finished tap when the backend next sends data."""

    @property
    def tracker(self) -> "RpcRequestTracker | None":
        """Matches responses to requests; None if a response always belongs to the most recent request."""

    def on_request(self, data: memoryview, now: float, /) -> None:
        """Observe `data` from the client, received at the monotonic time `now`."""

    def on_response(self, data: memoryview, now: float, /) -> None:
        """Observe `data` from the backend, received at the monotonic time `now`."""


class RpcRequestTracker(Protocol):
    """Defines the interface for matching replies to calls on an ONC RPC connection, such as NFS."""

    @property
    def parseable(self) -> bool:
        """Whether all bytes so far are valid RPC. After an invalid byte, the tracker matches no more replies."""

    def oldest_pending(self) -> float | None:
        """Return the monotonic time of the oldest request without a response; None if there is none."""

    def on_message(self, xid: int, rpc_type: int, now: float, *, from_backend: bool) -> None:
        """Observe a message that the native engine has parsed. The native engine passes no bytes to the tap.

        Args:
            xid: The transaction ID (RFC 5531, section 9).
            rpc_type: The message type: 0 for a call, 1 for a reply, or -1 if the bytes are not a valid RPC message.
            now: The monotonic time at which the message passed, in seconds.
            from_backend: Whether the backend has sent the message.
        """


TapFactory = Callable[[Callable[[float], None]], Tap]
"""Creates a tap for one connection. The tap calls the given function with each response latency, in seconds."""


def waiting_since(tap: Tap | None, request_at: float) -> float | None:
    """Return the monotonic time at which a client began to wait for a response; None if the client does not wait.

    Args:
        tap: The tap of the connection; None if it has none.
        request_at: Monotonic time of the last request byte that has no response yet; 0 if there is none. If the tap
            has a tracker, the tracker's time is used instead.
    """
    tracker = tap.tracker if tap is not None else None
    if tracker is not None:
        return tracker.oldest_pending() if tracker.parseable else None
    return request_at or None


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


class Summary:
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
