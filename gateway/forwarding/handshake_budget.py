"""Limits how many MySQL handshakes clients may abort, so that the server does not block the gateway. Does no I/O.

For each source address, MySQL counts the connections that end during the handshake. When the count reaches
`max_connect_errors`, MySQL refuses all connections from that address with error 1129, until an operator flushes the
host cache. A successful login from the address resets the count (MySQL Reference Manual, "The Host Cache"). Through a
bastion, all clients share one address, so one client that repeatedly connects and disconnects would lock out all
others.

All times are monotonic (`time.monotonic()`).
"""

from collections.abc import Sequence

from gateway.backend_support.aborted_login_count import AbortedLoginCount
from gateway.backend_support.login_pacing import LoginPacing

_THROTTLE_SHARE = 0.9
"""Fraction of the limit above which the budget admits clients one at a time."""
_THROTTLE_INTERVAL = 10.0
"""Minimum time, in seconds, between two admitted clients while a budget admits clients one at a time. All budgets of
one server share this interval. A successful login resets the budget of its path, which ends the throttling."""
_ABANDONED_DIAL_DELAY = 10.0
"""Seconds within which an abandoned dial can still connect. The server then counts an aborted handshake, even if a
login has reset the count in the meantime."""
LOGIN_RESPONSES = 2
"""Number of responses after which a client has certainly logged in: the response to the login, and the response to
the next request."""


class HandshakeBudget(AbortedLoginCount):
    """Counts and limits the aborted handshakes with one server through one tunnel.

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
        """Count a client that disconnected at the monotonic time `at`, possibly before it had logged in."""
        self.add_abort(at)

    def record_abandoned(self, at: float) -> None:
        """Count a dial that was abandoned at the monotonic time `at`.

        If the dial still succeeds, the gateway closes the connection, and the server counts an aborted handshake.
        """
        self.add_abort(at + _ABANDONED_DIAL_DELAY)

    def record_login(self, at: float) -> None:
        """Record a successful login at the monotonic time `at`. Earlier aborted handshakes no longer count."""
        self.reset(at)

    def allows(self, now: float) -> bool:
        """Return whether a client can be admitted at the monotonic time `now`.

        Near the limit, a result of True counts as an admission: the next client must wait for `_THROTTLE_INTERVAL`.
        """
        if self.aborted < self.limit * _THROTTLE_SHARE:
            return True
        if now < max(each.next_admission for each in self.peers):
            return False
        self.next_admission = now + _THROTTLE_INTERVAL
        return True

    @property
    def needs_login(self) -> bool:
        """Whether a health check should log in soon, because a login resets the server's count."""
        return self.aborted >= self.limit / 2


def join_budgets(budgets: Sequence[HandshakeBudget]) -> None:
    """Make these budgets share one limit, the lowest of their limits, because they all lead to the same server."""
    for each in budgets:
        each.peers = budgets
        each.logins.peers = [peer.logins for peer in budgets]
    set_limit(budgets, min(each.limit for each in budgets))


def set_limit(budgets: Sequence[HandshakeBudget], limit: int) -> None:
    """Set the limit of budgets that lead to the same server.

    Args:
        budgets: The budgets.
        limit: Number of aborted handshakes at which the server blocks an address.
    """
    for each in budgets:
        each.logins.limit = limit
