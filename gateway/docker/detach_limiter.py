"""Limits how many endpoints are detached for good: a mistake must not detach every container at once."""

from collections import deque
from collections.abc import Sequence

from gateway.docker.plan import Action


class DetachLimiter:
    """Counts over a window of time.

    Args:
        most: Most endpoints within `window`.
        window: In seconds.
    """

    def __init__(self, most: int, window: float) -> None:
        self._most = most
        self._window = window
        self._taken: deque[float] = deque()

    def remaining(self, now: float) -> int:
        """Return how many more may be detached at the monotonic time `now`."""
        self._forget(now)
        return max(0, self._most - len(self._taken))

    def record(self, count: int, now: float) -> None:
        """Count endpoints that were detached."""
        self._taken.extend([now] * count)

    def admit(self, actions: Sequence[Action], now: float) -> tuple[list[Action], list[Action]]:
        """Return which of these may be done at the monotonic time `now`, and which are held.

        One that detaches more than is ever allowed is admitted alone.
        """
        left = self.remaining(now)
        may: list[Action] = []
        held: list[Action] = []
        for action in actions:
            if not action.detaches or action.detaches <= left or left == self._most:
                may.append(action)
                left -= action.detaches
            else:
                held.append(action)
        return may, held

    def wait_time(self, now: float) -> float:
        """Return the seconds until more may be detached."""
        self._forget(now)
        return self._taken[0] + self._window - now if self._taken else 0.0

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0] <= now - self._window:
            self._taken.popleft()
