"""How many endpoints may be taken off for good: a mistake must not take every container off its network at once."""

from collections import deque
from collections.abc import Sequence

from gateway.docker.plan import Action


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
        self._forget(now)
        return max(0, self._most - len(self._taken))

    def took(self, count: int, now: float) -> None:
        """So many were."""
        self._taken.extend([now] * count)

    def admit(self, actions: Sequence[Action], now: float) -> tuple[list[Action], list[Action]]:
        """Which of these may be done at the monotonic time `now`, and which are held.

        One that takes off more than is ever allowed is admitted alone.
        """
        left = self.left(now)
        may: list[Action] = []
        held: list[Action] = []
        for action in actions:
            if not action.detaches or action.detaches <= left or left == self._most:
                may.append(action)
                left -= action.detaches
            else:
                held.append(action)
        return may, held

    def wait(self, now: float) -> float:
        """Seconds until there is more left than now."""
        self._forget(now)
        return self._taken[0] + self._window - now if self._taken else 0.0

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0] <= now - self._window:
            self._taken.popleft()
