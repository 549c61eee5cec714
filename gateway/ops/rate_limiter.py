"""Limits the rate of requests with a token bucket: delays requests, and never rejects them. Does no I/O."""

import math


class RateLimiter:
    """A token bucket that delays requests. All times are monotonic, in seconds.

    Args:
        rate: Maximum number of requests per second.
        burst: Number of requests that can pass without delay after a period without requests.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1.0 / rate
        self._burst_time = self._interval * burst
        self._due = -math.inf

    def reserve(self, now: float) -> float:
        """Count a request that arrives at the time `now`, and return how many seconds the request must wait."""
        self._due = max(self._due, now - self._burst_time) + self._interval
        return max(0.0, self._due - now)

    def cancel(self) -> None:
        """Undo one call of `reserve`. Call this method if the client disconnects while its request waits."""
        self._due -= self._interval
