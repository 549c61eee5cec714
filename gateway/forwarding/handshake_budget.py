"""Limits aborted handshakes, so that a MySQL server does not block the gateway's address. Does no I/O.

MySQL counts connections that end during their handshake by source address. At `max_connect_errors` it refuses all
connections from that address with error 1129 until an operator flushes its host cache. A successful login resets the
count of its address (MySQL Reference Manual, "The Host Cache"). Through a bastion all clients share one address, so
one client that repeatedly connects and disconnects would lock out all of them.

All times are monotonic (`time.monotonic()`). All processes of a host share this clock, so the main process can send
the time of a check's login to a worker.
"""

from collections.abc import Sequence

from gateway.backend_support.aborted_login_count import AbortedLoginCount
from gateway.backend_support.login_pacing import LoginPacing

_THROTTLE_SHARE = 0.9
"""Fraction of the limit above which the budget admits clients one at a time."""
_THROTTLE_INTERVAL = 10.0
"""Minimum seconds between two clients that the budgets of one server admit one at a time. A successful login lifts
this limit for its way."""
_ABANDONED_DIAL_DELAY = 10.0
"""Seconds within which an abandoned dial might still connect. The server might then count the aborted handshake after
a later login has reset the count."""
LOGIN_RESPONSES = 2
"""Number of responses after which a client has certainly logged in: the response to the login, and the response to
the next request."""


class HandshakeBudget(AbortedLoginCount):
    """Counts the aborted handshakes at one server, through one tunnel, and limits their number.

    Args:
        limit: Number of aborted handshakes at which the server blocks the gateway's address.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.logins = LoginPacing(limit)
        """Limits the logins of checks."""
        self.next_admission = 0.0
        """Monotonic time before which no client is admitted near the limit."""

    @property
    def limit(self) -> int:
        """Number of aborted handshakes at which the server blocks an address."""
        return self.logins.limit

    def record_aborted(self, at: float) -> None:
        """Count a client that disconnected at the time `at`, before it was certain that the client had logged in."""
        self.add_abort(at)

    def record_abandoned(self, at: float) -> None:
        """Count a dial that was abandoned at the time `at`. If it still connects, its handshake is aborted."""
        self.add_abort(at + _ABANDONED_DIAL_DELAY)

    def record_login(self, at: float) -> None:
        """Record a successful login at the time `at`: no longer count the handshakes that were aborted before."""
        self.reset(at)

    def allows(self, now: float) -> bool:
        """Return whether another client can connect at the time `now`. Near the limit, True counts as admission."""
        if self.aborted < self.limit * _THROTTLE_SHARE:
            return True
        if now < max(each.next_admission for each in self.peers):
            return False
        self.next_admission = now + _THROTTLE_INTERVAL
        return True

    @property
    def needs_login(self) -> bool:
        """Whether a health check should log in soon, to reset the server's count."""
        return self.aborted >= self.limit / 2


def join_budgets(budgets: Sequence[HandshakeBudget]) -> None:
    """Make `budgets` the budgets of all ways to one server, with the lowest of their limits."""
    for each in budgets:
        each.peers = budgets
        each.logins.peers = [peer.logins for peer in budgets]
    set_limit(budgets, min(each.limit for each in budgets))


def set_limit(budgets: Sequence[HandshakeBudget], limit: int) -> None:
    """Set the number of aborted handshakes at which the server of `budgets` blocks an address."""
    for each in budgets:
        each.logins.limit = limit
