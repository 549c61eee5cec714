"""Allocates histograms in the native engine. Adds their observations to the gateway's Prometheus histograms."""

import struct

from gateway._dataplane.engine import COMMAND_CLOSE_HISTOGRAM, Engine
from gateway.metric_types import LATENCY_BUCKETS, Histogram

_MAX_UNUSED = 64
"""Maximum number of unused histograms that stay open. New relays often need the same histograms again."""
_unpack_counts = struct.Struct(f"={len(LATENCY_BUCKETS) + 1}Q").unpack


class _SharedHistogram:
    """A histogram in the native engine. Several relays and listeners can share it.

    Args:
        latency: The Prometheus histogram to which the observations are added.
        number: Identifies the histogram in the native engine.
    """

    def __init__(self, latency: Histogram, number: int) -> None:
        self.latency = latency
        self.number = number
        self.users = 0
        """Number of relays and listeners that use the histogram."""


class NativeEngineHistograms:
    """Allocates the histograms of one native engine to relays and listeners.

    Relays and listeners with the same Prometheus histogram share one histogram of the native engine.

    Args:
        engine: The native engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_latency: dict[int, _SharedHistogram] = {}
        """The open histograms, by the `id()` of their Prometheus histogram."""
        self._by_number: dict[int, _SharedHistogram] = {}
        """The histograms, by number. A closed histogram remains until its last record arrives."""
        self._unused: dict[int, _SharedHistogram] = {}
        """The open histograms that are not in use, by number. The one that has been unused longest is first."""
        self._free: list[int] = []

    def acquire(self, latency: Histogram) -> int:
        """Return the number that identifies the native engine's histogram for `latency`.

        The caller must later pass this number to `release`.
        """
        shared = self._by_latency.get(id(latency))
        if shared is None:
            shared = _SharedHistogram(latency, self._free.pop() if self._free else len(self._by_number))
            self._by_latency[id(latency)] = self._by_number[shared.number] = shared
        self._unused.pop(shared.number, None)
        shared.users += 1
        return shared.number

    def release(self, number: int) -> None:
        """Undo one call of `acquire` that returned `number`.

        If more than `_MAX_UNUSED` histograms are unused, close the one that has been unused longest.
        """
        shared = self._by_number[number]
        shared.users -= 1
        if shared.users:
            return
        self._unused[number] = shared
        if len(self._unused) > _MAX_UNUSED:
            oldest = self._unused.pop(next(iter(self._unused)))
            del self._by_latency[id(oldest.latency)]
            self._engine.command(COMMAND_CLOSE_HISTOGRAM, 0, oldest.number)

    def add(self, number: int, closed: int, total: int, counts: bytes) -> None:
        """Add the observations in a record from the native engine to the Prometheus histogram.

        Args:
            number: Identifies the histogram in the native engine.
            closed: Whether the native engine has closed the histogram. This record is then the last one for the
                histogram, and a new histogram can get `number`.
            total: The sum of the observations, in nanoseconds.
            counts: The number of observations in each bucket.
        """
        shared = self._by_number[number]
        added = Histogram()
        added.counts, added.sum = list(_unpack_counts(counts)), total / 1e9
        shared.latency.add(added)
        if closed:
            del self._by_number[number]
            self._free.append(number)
