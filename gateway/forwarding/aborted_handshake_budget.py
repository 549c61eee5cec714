"""Limits the MySQL handshakes that clients abort, so that the server does not block the gateway. Does no I/O.

MySQL counts the connections from each source address that are closed during the handshake. When the count reaches
`max_connect_errors`, MySQL refuses all connections from that address with error 1129, until an operator flushes the
host cache. A successful login from the address resets the count (MySQL Reference Manual, "The Host Cache"). Behind a
bastion, all clients have the same source address. One client that repeatedly connects and disconnects could therefore
lock out all other clients.

All times are monotonic (`time.monotonic()`).
"""

import math
from collections.abc import Callable, Sequence

from gateway.backend_support.aborted_login_count import AbortedLoginCount
from gateway.backend_support.probe_login_limiter import ProbeLoginLimiter
from gateway.contracts.native_listener_interfaces import NativeListenerInterface
from gateway.contracts.relay import Relay

_THROTTLE_SHARE = 0.9
"""When the number of aborted handshakes reaches this fraction of the limit, the budget admits clients one at a time.
If the limit is less than ten, the limit minus one applies instead of this fraction."""
_THROTTLE_INTERVAL = 10.0
"""Minimum seconds between two admissions, while clients are admitted one at a time. The interval applies to all
tunnels to the server together."""
CLOSE_DELAY = 1.0
"""Maximum seconds from a client's disconnect until the server counts the aborted handshake. If another client logs
in during this time, the server can still count the aborted handshake after this login."""
REPORT_DELAY = 1.0
"""Maximum seconds from the time at which a link connects a client until the client is added to the budget. The link
can wait about 50 ms before it reports the client, and the event loop can be busy."""
_ABANDONED_DIAL_DELAY = 10.0
"""Maximum seconds until an abandoned dial reaches the server, which then counts an aborted handshake. If a client
logs in during this time, the server can still count the aborted handshake after this login."""
LOGIN_RESPONSES = 2
"""Number of responses after which a client has probably logged in: one to the login itself, and one to the next
request."""
_CERTAIN_LOGIN_RESPONSES = 6
"""A client with at least this number of responses has certainly logged in, even with TLS and a change of the
authentication plugin. If a client has fewer responses, the server might have denied the login. A denied login does
not reset the server's count."""
_CHECK_VALIDITY = 300.0
"""Number of seconds for which the login of a check counts as recent (see `record_client_login`)."""
_MAX_HANDSHAKE = 5.0
"""Number of seconds for which the budget reserves room for a client with exactly one response. After this time, the
client has probably logged in and is idle."""
_LOGIN_TIMEOUT = 11.0
"""If a connection with only one response lasts at least this number of seconds, its client has logged in. By default,
the server closes a connection without a login after 10 s (`connect_timeout`)."""


class AbortedHandshakeBudget(AbortedLoginCount):
    """Counts and limits the aborted handshakes with one server through one tunnel.

    Args:
        limit: Number of aborted handshakes at which the server blocks the source address.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.logins = ProbeLoginLimiter(limit)
        """Limits the logins of probes."""
        self.dials = 0
        """Number of current dials."""
        self.waiting = 0
        """Number of clients that wait until the budget admits them."""
        self.listeners: dict[NativeListenerInterface, Callable[[], None]] = {}
        """The listeners on which links accept clients, each with a function that stops it. A stopped listener remains
        here until the link has reported all its clients, but reserves no room for new clients."""
        self._clients: dict[Relay, float] = {}
        """Maps the relay of each client to the monotonic time at which the client was connected. `update_clients`
        removes the clients that have probably logged in."""
        self._check_login = -math.inf
        """Monotonic time of the last successful login of a check through this tunnel."""
        self.check_scheduled = False
        """Whether the gateway will soon request a check, whose login resets the count of aborted handshakes."""
        self.next_admission = 0.0
        """Earliest monotonic time of the next admission, while clients are admitted one at a time."""

    @property
    def limit(self) -> int:
        """Number of aborted handshakes at which the server blocks the source address."""
        return self.logins.limit

    def remove_client(self, client: Relay, began: float, now: float) -> bool:
        """Remove a client whose connection has ended.

        Count an aborted handshake if the client has not logged in. Record the login of a client that has received at
        least `LOGIN_RESPONSES` responses.

        Args:
            client: The client's relay.
            began: Monotonic time before which the client cannot have logged in.
            now: The current monotonic time.

        Returns:
            Whether the client has aborted its handshake.
        """
        self._clients.pop(client, None)
        responses = client.responses
        if responses == 0 or (responses < LOGIN_RESPONSES and now - began < _LOGIN_TIMEOUT):
            self.record_aborted(now)
            return True
        if responses >= LOGIN_RESPONSES:
            self.record_client_login(began, now, responses)
        return False

    def record_aborted(self, at: float) -> None:
        """Count the aborted handshake of a client that disconnected at the monotonic time `at`."""
        self.add_abort(at + CLOSE_DELAY)

    def record_abandoned(self, at: float) -> None:
        """Count a dial that was abandoned at the monotonic time `at`.

        If the dial still succeeds, the gateway closes the connection, and the server counts an aborted handshake.
        """
        self.add_abort(at + _ABANDONED_DIAL_DELAY)

    def record_client_login(self, at: float, now: float, responses: int) -> None:
        """Record that a client has probably logged in, which resets the count of aborted handshakes.

        Do nothing if a check has logged in recently and the client has received fewer than
        `_CERTAIN_LOGIN_RESPONSES` responses.

        Args:
            at: Monotonic time of the login.
            now: The current monotonic time.
            responses: Number of responses that the client has received.
        """
        if responses >= _CERTAIN_LOGIN_RESPONSES or now - self._check_login > _CHECK_VALIDITY:
            self.reset(at)

    def record_login(self, at: float) -> None:
        """Record a successful login of a check at the monotonic time `at`.

        Discard the aborted handshakes that the server must have counted before the login.
        """
        self._check_login = max(at, self._check_login)
        self.reset(at)

    def add_client(self, client: Relay, at: float) -> None:
        """Add a client that was connected to the server at the monotonic time `at`.

        The budget assumes that the client aborts its handshake, until the responses that the client has received show
        that it has probably logged in.
        """
        self._clients[client] = at

    def unproven(self, now: float) -> int:
        """Return how many dials and clients of all tunnels to the server can still end in an aborted handshake.

        The number includes the clients that links may still accept.
        """
        self.update_clients(now)
        return sum(each.most_unproven for each in self.same_server)

    def update_clients(self, now: float) -> None:
        """Find clients that have probably logged in, and remove them from the budgets of all tunnels to the server.

        Record the logins of the clients that have received at least `LOGIN_RESPONSES` responses.
        """
        for each in self.same_server:
            each._update_own_clients(now)  # noqa: SLF001 - all budgets are of the same class

    def _update_own_clients(self, now: float) -> None:
        unproven: dict[Relay, float] = {}
        for each, at in self._clients.items():
            responses = each.responses
            if responses >= LOGIN_RESPONSES:
                self.record_client_login(at - REPORT_DELAY, now, responses)
            elif responses == 0 or now - at < _MAX_HANDSHAKE:
                unproven[each] = at
        self._clients = unproven

    @property
    def most_unproven(self) -> int:
        """Number of dials and clients of this tunnel that could still end in an aborted handshake.

        The number also includes clients that have logged in since the last call of `update_clients`.
        """
        return len(self._clients) + self.dials + sum(each.reserved for each in self.listeners)

    def room(self, now: float) -> int:
        """Return how many clients can be admitted at the monotonic time `now`.

        The calculation assumes that all clients without a login abort their handshakes. The result can be negative.
        """
        self.update_clients(now)
        return self._free

    @property
    def _free(self) -> int:
        """The result of `room`, but without a call of `update_clients` first."""
        return self._threshold - self.aborted - sum(each.most_unproven for each in self.same_server)

    @property
    def _threshold(self) -> int:
        """The number of aborted handshakes at which the budget starts to admit clients one at a time."""
        return max(1, min(math.ceil(self.limit * _THROTTLE_SHARE), self.limit - 1))

    def room_for_links(self, now: float) -> int:
        """Return how many clients the links may accept at the monotonic time `now`.

        The result is 0 while other clients wait for the budget, because waiting clients come first.
        """
        return 0 if any(each.waiting for each in self.same_server) else self.room(now)

    def stop_links(self) -> None:
        """Make the links of all tunnels to the server stop accepting clients.

        This frees the part of the budget that the links reserve for new clients.
        """
        for each in self.same_server:
            for stop in list(each.listeners.values()):
                stop()

    @property
    def throttled(self) -> bool:
        """Whether clients are admitted one at a time."""
        return self.aborted >= self._threshold

    def allows(self, now: float) -> bool:
        """Return whether a client can be admitted at the monotonic time `now`.

        While clients are admitted one at a time, a call that returns True also starts the interval
        (`_THROTTLE_INTERVAL`) until the next admission.
        """
        # First, check for room without `update_clients`, because that call takes time.
        if self._free > 0:
            return True
        self.update_clients(now)
        if not self.throttled:
            return self._free > 0
        if now < max(each.next_admission for each in self.same_server):
            return False
        self.next_admission = now + _THROTTLE_INTERVAL
        return True

    @property
    def needs_login(self) -> bool:
        """Whether the count of aborted handshakes is so high that a check should log in soon, to reset the count."""
        return self.aborted >= self.limit / 2


def join_budgets(budgets: Sequence[AbortedHandshakeBudget]) -> None:
    """Combine the budgets of one server. Each budget then includes the counts of the others.

    The limit of all budgets becomes the lowest of their limits.
    """
    for each in budgets:
        each.same_server = budgets
        each.logins.same_server = [budget.logins for budget in budgets]
    set_limit(budgets, min(each.limit for each in budgets))


def set_limit(budgets: Sequence[AbortedHandshakeBudget], limit: int) -> None:
    """Set the limit of all budgets of one server.

    Args:
        budgets: The budgets.
        limit: Number of aborted handshakes at which the server blocks the source address.
    """
    for each in budgets:
        each.logins.limit = limit
