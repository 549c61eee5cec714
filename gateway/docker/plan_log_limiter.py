"""Limits the log lines about plans and their actions: suppresses repeated lines, and limits the rate of lines."""

from collections import deque
from collections.abc import Hashable, Iterable


class PlanLogLimiter:
    """Decides which log lines to write. Does no I/O; times are monotonic, in seconds.

    Args:
        most: The maximum number of lines to log within `window`.
        window: The length of the window, in seconds.
        repeat_after: Seconds. A line that was absent from the plans for at least this time is logged again when it
            reappears.
    """

    def __init__(self, most: int = 60, window: float = 60.0, repeat_after: float = 600.0) -> None:
        self._most = most
        self._window = window
        self._repeat_after = repeat_after
        self._seen: dict[Hashable, float] = {}
        self._lines: deque[float] = deque()
        self._suppressed = 0

    def select(self, current: Iterable[Hashable], now: float) -> list[Hashable]:
        """Return the lines to log: new lines, up to the rate limit.

        If the rate limit is reached, later calls return the remaining new lines.

        Args:
            current: All lines that apply to the current plan.
            now: The monotonic time in seconds.
        """
        found = []
        for each in current:
            if each in self._seen:
                self._seen[each] = now
            elif self._room(now):
                self._seen[each] = now
                found.append(each)
        self._seen = {key: at for key, at in self._seen.items() if at + self._repeat_after > now}
        return found

    def admit(self, now: float) -> bool:
        """Return whether to log one more line now. If not, count the line as suppressed."""
        if self._room(now):
            return True
        self._suppressed += 1
        return False

    def take_suppressed(self, now: float) -> int:
        """Return the number of suppressed lines, and reset the number to 0.

        If the rate limit permits no further line now, return 0 and keep the number.
        """
        if not self._suppressed or not self._room(now):
            return 0
        count, self._suppressed = self._suppressed, 0
        return count

    def _room(self, now: float) -> bool:
        while self._lines and self._lines[0] <= now - self._window:
            self._lines.popleft()
        if len(self._lines) >= self._most:
            return False
        self._lines.append(now)
        return True
