"""Limits how many endpoints are detached in a time window, so that a mistake cannot detach all containers."""

from collections import deque
from collections.abc import Sequence

from gateway.docker.plan import PlannedAction


class NetworkDisconnectLimiter:
    """Limits the number of endpoints that are detached in a sliding window. All times are monotonic, in seconds.

    Args:
        most: The maximum number of endpoints to detach within `window`.
        window: The length of the window, in seconds.
    """

    def __init__(self, most: int, window: float) -> None:
        self._most = most
        self._window = window
        self._taken: deque[float] = deque()

    def remaining(self, now: float) -> int:
        """Return how many more endpoints may be detached now."""
        self._forget(now)
        return max(0, self._most - len(self._taken))

    def record(self, count: int, now: float) -> None:
        """Record that `count` endpoints were detached at the time `now`."""
        self._taken.extend([now] * count)

    def admit(self, actions: Sequence[PlannedAction], now: float) -> tuple[list[PlannedAction], list[PlannedAction]]:
        """Split actions into those that the limit allows now and those that must wait.

        If no endpoint was detached in the current time window, one action may exceed the limit. Without this rule, an
        action that detaches more endpoints than the limit would wait forever.
        """
        left = self.remaining(now)
        may: list[PlannedAction] = []
        held: list[PlannedAction] = []
        for action in actions:
            if not action.detaches or action.detaches <= left or left == self._most:
                may.append(action)
                left -= action.detaches
            else:
                held.append(action)
        return may, held

    def wait_time(self, now: float) -> float:
        """Return the seconds until the limiter no longer counts the oldest detachment; 0 if there is none."""
        self._forget(now)
        return self._taken[0] + self._window - now if self._taken else 0.0

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0] <= now - self._window:
            self._taken.popleft()
