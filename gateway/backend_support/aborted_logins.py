"""Pauses between logins to a server that counts aborted logins. Pure.

A check aborts its login at its deadline if the server has not answered. A server that was suspended counts all
aborted logins when it resumes, and blocks the source address at `max_connect_errors` (MySQL Reference Manual, "The
Host Cache"). A successful login resets the count.
"""

_FREE_FRACTION = 4
"""Divisor of the limit: up to this part of it there are no pauses."""
_FIRST_PAUSE, _MAX_PAUSE = 10.0, 600.0
"""Seconds of the first pause, and of the longest one. The pause doubles after each aborted login."""


class AbortedLogins:
    """Counts the consecutive aborted logins to one server.

    Args:
        limit: The count at which the server blocks the source address.
    """

    def __init__(self, limit: int) -> None:
        self.count = 0
        self.limit = limit
        self._not_before = 0.0

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
        """Return the seconds to wait before the next login, at the monotonic time `now`; 0 for none."""
        return max(0.0, self._not_before - now)
