"""Lets the native engine accept the clients of a backend, as long as no client needs a decision by Python code."""

import time
from collections.abc import Callable
from typing import Any

from gateway.cancel_protocol import LoginTap
from gateway.contracts.accepting_link import AcceptingLink, AcceptRule, LinkListener, ServedClients
from gateway.contracts.link import Stream
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.forwarding.aborted_handshake_budget import LOGIN_RESPONSES, AbortedHandshakeBudget
from gateway.forwarding.acceptor import Acceptor
from gateway.forwarding.cancel_request_router import CancelRequestRouter
from gateway.forwarding.listener import Listener
from gateway.forwarding.route import Route
from gateway.forwarding.routed_target import LinkSource, RoutedTarget
from gateway.measurement import Histogram

_RETRY_AFTER = 1.0
"""Minimum seconds between two attempts to let a link accept clients, if the first attempt or the link has failed."""
_MIN_HOLD = 3.0
"""If `Route.hold` is less than this number of seconds, links accept no clients. Python code then accepts the clients,
because it enforces a short limit more precisely."""
_MIN_ROOM = 0.25
"""Minimum fraction of `_permit_limit` that must be available before a link starts to accept clients."""
_PERMIT_SHARE = 1 / 64
"""Fraction of `_permit_limit`. When this fraction has become free, the gateway gives the link new permits."""
_BUDGET_SHARE = 0.5
"""Maximum fraction of a handshake budget that the permits of one link can use. The rest remains for other backends of
the same server."""


class NativeAcceptor:
    """Lets a link accept the clients of one backend in C; implements `AcceptedClientHandler`.

    A link starts to accept clients after Python code has connected a client through the link. The link stops when the
    route or a rule changes, when a dial fails, or when the number of connections is close to the limit. Python code
    (the `Acceptor`) then accepts the clients again. If the link cannot connect a client to the target, it returns the
    client to the `Acceptor`.

    Args:
        acceptor: Accepts the clients that the link returns.
        latency: Records the response latencies.
        on_joined: Called for each client that the link has connected to the target. Receives the path to the target,
            the relay, the tap that observes the login, and the monotonic time at which the client was connected.
        on_served: Called with the number and the bytes of clients whose short connections the link reports together.
        on_abandoned: Called with the path of a dial that the link has abandoned, but that may still succeed.
        cancels: Routes cancel requests; None if clients send no cancel requests on separate connections. A link sends
            all cancel requests to its only target, so it accepts clients only while no other target has sessions.
    """

    def __init__(
        self,
        acceptor: Acceptor,
        latency: Histogram,
        on_joined: Callable[[RoutedTarget, Relay, LoginTap | None, float], None],
        on_served: Callable[[ServedClients], None],
        on_abandoned: Callable[[RoutedTarget], None],
        cancels: CancelRequestRouter | None = None,
    ) -> None:
        self._acceptor = acceptor
        self._latency = latency
        self._on_joined = on_joined
        self._on_served = on_served
        self._on_abandoned = on_abandoned
        self._cancels = cancels
        self._listening: LinkListener | None = None
        """The link's listener that currently accepts the clients; None if Python code accepts them."""
        self._paths: dict[LinkListener, RoutedTarget] = {}
        """For each `LinkListener` that still has clients or can accept them: the path over which it dials."""
        self._bound: list[Listener] = []
        """The backend's listeners on whose sockets the link accepts clients."""
        self._budgets: dict[LinkListener, AbortedHandshakeBudget] = {}
        """The handshake budgets that count the clients of each `LinkListener` of `_paths`."""
        self._budget: AbortedHandshakeBudget | None = None
        """The handshake budget of the path of `_listening`."""
        self._freed = 0
        """Number of permits that became free since the link last received permits. With a permit, a link accepts one
        client."""
        self._retry_at = 0.0

    @property
    def waiting(self) -> int:
        """Number of clients that links have accepted, but neither connected to the target nor returned yet."""
        return sum(each.waiting for each in self._paths)

    @property
    def clients(self) -> int:
        """Number of current clients that links have accepted, but not yet passed to this object."""
        return sum(each.clients for each in self._paths)

    def count_on(self, uplink: LinkSource) -> int:
        """Return the number of `clients` that the links of `uplink` have accepted."""
        return sum(each.clients for each, routed in self._paths.items() if routed.uplink is uplink)

    def offer(self, routed: RoutedTarget, route: Route, listeners: list[Listener]) -> None:
        """Let a link accept clients, if the rules permit this. Call this method after each client is connected.

        Args:
            routed: The path over which the client was connected. Its link accepts the next clients.
            route: The current route.
            listeners: The listeners of the backend.
        """
        if self._listening is not None or (now := time.monotonic()) < self._retry_at:
            return
        link = routed.uplink.link
        self._budget = route.budget(routed)
        room = self._room()
        if (
            isinstance(link, AcceptingLink)
            and self._is_simple(routed, route)
            and route.hold >= _MIN_HOLD
            and room >= max(1, int(self._permit_limit * _MIN_ROOM))
            and listeners
            and all(each.is_tcp for each in listeners)
        ):
            sockets = tuple(sock for each in listeners for sock in each.sockets)
            make_tap = self._cancels.login_tap if self._cancels is not None else None
            open_time = routed.uplink.channel_open
            rule = AcceptRule(
                sockets, routed.target, self._acceptor.admission.allow, self._latency, open_time, make_tap,
                LOGIN_RESPONSES if self._budget is not None else 0,
            )  # fmt: skip
            self._listening = link.listen(rule, room, self)
        if self._listening is None:
            self._retry_at = now + _RETRY_AFTER
            return
        self._paths[self._listening] = routed
        if self._budget is not None:
            self._budget.listeners.add(self._listening)
            self._budgets[self._listening] = self._budget
        self._bound, self._freed = listeners, 0
        for each in listeners:
            each.delegate(self.withdraw)

    def review(self, route: Route) -> None:
        """Stop the link from accepting clients if it can no longer handle all new clients of this backend."""
        listening = self._listening
        if listening is not None and not self._is_simple(self._paths[listening], route):
            self.withdraw()

    def _is_simple(self, routed: RoutedTarget, route: Route) -> bool:
        """Return whether all new clients use this path, independent of their identity and data."""
        return (
            self._acceptor.accepts_anyone
            and (self._cancels is None or not self._cancels.has_sessions_elsewhere(routed.identity))
            and route.routes()[:1] == [routed]
        )

    def withdraw(self) -> None:
        """If a link accepts clients, make the link stop. Python code accepts clients again immediately."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.withdraw()
            self._accept_here()

    def recall(self) -> None:
        """Make the links return the clients that they have accepted, but not connected to the target yet."""
        for each in self._paths:
            each.recall()

    @property
    def _permit_limit(self) -> int:
        """The largest number of permits that a link can have at a time. With each permit, it accepts one client."""
        limit = self._acceptor.admission.max_connections
        return limit if self._budget is None else min(limit, int(self._budget.limit * _BUDGET_SHARE))

    def _room(self) -> int:
        """Return the number of additional permits that the limits allow."""
        budget, reserved = self._budget, sum(each.reserved for each in self._paths)
        room = self._acceptor.admission.max_connections - self._acceptor.active_here - reserved
        return (
            room
            if budget is None
            else min(room, int((budget.room(time.monotonic()) + reserved) * _BUDGET_SHARE) - reserved)
        )

    def on_permit_freed(self) -> None:
        """Count a permit that has become free. If enough permits are free, permit the link to accept more clients."""
        if self._listening is not None:
            self._freed += 1
            if self._freed >= self._permit_limit * _PERMIT_SHARE:
                self._freed = 0
                room = self._room()
                if room > 0:
                    self._listening.permit(room)

    # The link calls the following methods of `AcceptedClientHandler`.

    def on_joined(self, listener: LinkListener, relay: Relay, tap: Any, at: float) -> None:
        """See `AcceptedClientHandler`."""
        routed = self._paths.get(listener)
        if routed is None:  # `listen` failed after the link had accepted this client
            relay.abort(CloseReason.ABORTED)
            return
        self._acceptor.accepted += 1
        self._on_joined(routed, relay, tap, at)
        if self._budget is not None:
            self.on_permit_freed()  # the handshake budget now counts this client instead of its permit

    def on_served(self, listener: LinkListener, clients: ServedClients) -> None:
        """See `AcceptedClientHandler`."""
        del listener
        self._acceptor.accepted += clients.total
        self._on_served(clients)

    def on_returned(self, listener: LinkListener, client: Stream, seconds: float, *, abandoned: bool) -> None:
        """See `AcceptedClientHandler`."""
        routed = self._paths.get(listener)
        if abandoned and routed is not None:
            self._on_abandoned(routed)
        self._acceptor.accept(client, seconds)
        self.on_permit_freed()

    def on_stopped(self, listener: LinkListener, *, failed: bool) -> None:
        """See `AcceptedClientHandler`."""
        if listener is self._listening:
            self._listening = None
            if failed:
                self._retry_at = time.monotonic() + _RETRY_AFTER
            self._accept_here()

    def on_closed(self, listener: LinkListener) -> None:
        """See `AcceptedClientHandler`."""
        self._paths.pop(listener, None)
        if (budget := self._budgets.pop(listener, None)) is not None:
            budget.listeners.discard(listener)

    def _accept_here(self) -> None:
        for each in self._bound:
            each.start(self._acceptor.accept)
        self._bound = []
