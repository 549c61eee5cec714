"""Measures for how long a program has not answered, although data waits for it. Does no I/O.

A program that waits for its network also reads no data, so a short time is not a failure.
"""


class SilenceTimer:
    """The state of one program or connection. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._unread_since: float | None = None

    def update(self, unread: int, last_received: float, now: float) -> float:
        """Return for how many seconds data has waited for the program without an answer.

        Args:
            unread: Number of bytes that the program has not read.
            last_received: Time of the last data from the program.
            now: The current time.
        """
        if not unread:
            self._unread_since = None
            return 0.0
        if self._unread_since is None:
            self._unread_since = now
        return now - max(self._unread_since, last_received)
