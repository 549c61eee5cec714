"""Limits aborted handshakes, so that a server does not block every client behind the gateway's address. Pure.

MySQL counts connections that end during their handshake by source address. At `max_connect_errors` it refuses all
connections from that address with error 1129 until an operator flushes its host cache. A successful login resets the
count (MySQL Reference Manual, "The Host Cache"). Through a bastion all clients share one address, so one client that
repeatedly connects and disconnects would lock out all of them.

All times are seconds since the epoch (`time.time()`), because they are compared with the times of health checks.
"""

from collections import deque

_THROTTLE_SHARE = 0.9
"""Share of the limit above which the budget admits clients one at a time."""
_THROTTLE_INTERVAL = 10.0
"""Seconds between two clients that the budget admits one at a time. A successful login ends this restriction."""
_MAX_COUNT = 10_000
_ABANDONED_DIAL_DELAY = 10.0
"""Seconds within which an abandoned dial may still connect. The server may count its handshake after a later
login."""
LOGIN_RESPONSES = 2
"""Responses after which a client has certainly logged in: one to its login, and one to its next request."""


class HandshakeBudget:
    """Count of aborted handshakes at one server, as seen through one tunnel.

    Args:
        limit: Number of aborted handshakes at which the server blocks the gateway's address.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._aborted: deque[float] = deque(maxlen=_MAX_COUNT)
        self._next_admission = 0.0

    @property
    def aborted(self) -> int:
        """Handshakes aborted since the last known login."""
        return len(self._aborted)

    def record_aborted(self, at: float) -> None:
        """Count a client that disconnected at the time `at`, before it had certainly logged in."""
        self._aborted.append(at)

    def record_abandoned(self, at: float) -> None:
        """Count a dial that was abandoned at the time `at`. It may still connect; its handshake is then aborted."""
        self._aborted.append(at + _ABANDONED_DIAL_DELAY)

    def record_login(self, at: float) -> None:
        """Remove the handshakes that were aborted before the time `at` of a successful login from the count."""
        self._aborted = deque((each for each in self._aborted if each > at), maxlen=_MAX_COUNT)

    def allows(self, now: float) -> bool:
        """Return whether another client may connect at the time `now`; near the limit, this admits that client."""
        if self.aborted < self.limit * _THROTTLE_SHARE:
            return True
        if now < self._next_admission:
            return False
        self._next_admission = now + _THROTTLE_INTERVAL
        return True

    @property
    def needs_login(self) -> bool:
        """Whether a health check should log in soon, to reset the server's count."""
        return self.aborted >= self.limit / 2
