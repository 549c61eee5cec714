"""How many endpoints may be taken off for good: a mistake must not take every container off its network at once."""

from collections import deque


class Brake:
    """Counts over a window of time.

    Args:
        most: So many within `window`.
        window: In seconds.
    """

    def __init__(self, most: int, window: float) -> None:
        self._most = most
        self._window = window
        self._taken: deque[float] = deque()

    def left(self, now: float) -> int:
        """How many more may be taken off at the monotonic time `now`."""
        while self._taken and self._taken[0] <= now - self._window:
            self._taken.popleft()
        return max(0, self._most - len(self._taken))

    def took(self, count: int, now: float) -> None:
        """So many were."""
        self._taken.extend([now] * count)

    def wait(self, now: float) -> float:
        """Seconds until one more may be."""
        return 0.0 if self.left(now) else self._taken[0] + self._window - now
