"""Measures for how long a program has made no progress, although a client waits for it. Does no I/O.

A program that waits for its network also reads no data, so a short time is not a failure.
"""


class SilenceTimer:
    """Measures the silence of one program or connection. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._since: float | None = None

    def update(self, now: float, last_progress: float, *, waits: bool) -> float:
        """Return for how many seconds a client has waited for the program without any progress.

        Args:
            now: The current time.
            last_progress: The last time at which the program read, sent, or accepted something.
            waits: Whether a client waits for the program.
        """
        if not waits:
            self._since = None
            return 0.0
        if self._since is None:
            self._since = now
        return now - max(self._since, last_progress)
