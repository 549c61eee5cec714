"""Calculates pauses between logins to a server that counts aborted logins. Does no I/O.

If the server does not answer, a check aborts its login at the deadline. A server that was suspended counts all
aborted logins when it resumes. If the count reaches `max_connect_errors`, the server blocks the source address (MySQL
Reference Manual, "The Host Cache"). A successful login resets the count.
"""

import asyncio

_FREE_FRACTION = 4
"""Pauses begin when the count exceeds `limit` divided by this number."""
_FIRST_PAUSE, _MAX_PAUSE = 10.0, 600.0
"""Duration of the first pause and of the longest pause, in seconds. Each aborted login doubles the duration."""


class AbortedLogins:
    """Counts the consecutive aborted logins to one server.

    Args:
        limit: The count at which the server blocks the source address.
    """

    def __init__(self, limit: int) -> None:
        self.count = 0
        self.limit = limit
        self.turn = asyncio.Lock()
        """Held during each login while `is_excessive` is true."""
        self._not_before = 0.0

    @property
    def is_excessive(self) -> bool:
        """Whether the next aborted login is followed by a pause."""
        return self.count >= max(1, self.limit // _FREE_FRACTION)

    def record_abort(self, now: float) -> None:
        """Record a login that was aborted at the monotonic time `now`."""
        self.count += 1
        excess = self.count - max(1, self.limit // _FREE_FRACTION)
        if excess > 0:
            self._not_before = now + min(_FIRST_PAUSE * 2.0 ** (excess - 1), _MAX_PAUSE)

    def record_success(self) -> None:
        """Record a successful login."""
        self.count, self._not_before = 0, 0.0

    def pause(self, now: float) -> float:
        """Return the seconds from the monotonic time `now` to the earliest next login; 0 if a login can start now."""
        return max(0.0, self._not_before - now)
