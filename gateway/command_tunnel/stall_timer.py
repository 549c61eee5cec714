"""Measures for how long a program has made no progress while a client waits for the program. Does no I/O.

A stall is not always a failure: a program with a slow network connection also stops reading data. Therefore, the
caller decides how long a stall may last.
"""


class StallTimer:
    """Measures for how long one program or connection has made no progress. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._since: float | None = None

    def update(self, now: float, last_progress: float, *, waits: bool) -> float:
        """Return how long, in seconds, the program has made no progress while a client waits; 0 if no client waits.

        Args:
            now: The current time.
            last_progress: The time at which the program last read data, sent data, or accepted a connection.
            waits: Whether a client waits for the program.
        """
        if not waits:
            self._since = None
            return 0.0
        if self._since is None:
            self._since = now
        return now - max(self._since, last_progress)
