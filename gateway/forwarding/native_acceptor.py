"""Lets the link of the target accept the clients of a backend, while its rules do not depend on who the client is."""

import time
from collections.abc import Callable
from typing import Any

from gateway.cancel_protocol import LoginTap
from gateway.contracts.accepting import AcceptingLink, AcceptRule, LinkListener
from gateway.contracts.link import Relay, Stream
from gateway.forwarding.acceptor import Acceptor
from gateway.forwarding.cancel_requests import CancelRouter
from gateway.forwarding.listener import Listener
from gateway.forwarding.route import Route
from gateway.forwarding.routed_target import RoutedTarget
from gateway.measurement import Histogram

_RETRY_AFTER = 1.0
"""Seconds after which the link can accept clients again: it has failed, or could not start."""
_MIN_HOLD = 3.0
"""The hold time, in seconds, below which this process dials: the time limit of its dials is then more exact."""
_MIN_ROOM = 0.25
"""Fraction of `max_connections` that must be free before a link accepts clients."""
_PERMIT_SHARE = 0.125
"""Fraction of `max_connections` that must have ended before more clients are permitted."""


class NativeAcceptor:
    """Moves the listeners of one backend to a link and back. Implements `AcceptedClientHandler`.

    The link accepts clients after this process has joined one through it. As soon as the route or a rule changes, a
    dial fails, or too few connections are left, this process accepts the clients again, and handles those that the
    link returns.

    Args:
        acceptor: Accepts the clients that the link returns.
        latency: Records the response latencies.
        on_joined: Called for each client that the link has joined, with the way to the target, the relay, and the tap
            that observes the login.
        cancels: Routes cancel requests; None if the kind sends none on separate connections. A link passes all
            requests to one target, so it accepts clients only while other targets have no sessions.
    """

    def __init__(
        self,
        acceptor: Acceptor,
        latency: Histogram,
        on_joined: Callable[[RoutedTarget, Relay, LoginTap | None], None],
        cancels: CancelRouter | None = None,
    ) -> None:
        self._acceptor = acceptor
        self._latency = latency
        self._on_joined = on_joined
        self._cancels = cancels
        self._listening: LinkListener | None = None
        """Accepts the clients now; None if this process accepts them."""
        self._ways: dict[LinkListener, RoutedTarget] = {}
        """The way of each listener that can still join or return clients."""
        self._bound: list[Listener] = []
        """The listeners of the backend that the link uses."""
        self._ended = 0
        """Clients that have ended since the last permits."""
        self._retry_at = 0.0

    @property
    def waiting(self) -> int:
        """Number of clients that a link has accepted and not joined or returned."""
        return sum(each.waiting for each in self._ways)

    def offer(self, routed: RoutedTarget, route: Route, listeners: list[Listener]) -> None:
        """Let the link of a target accept clients, if possible. Call this after a client was joined to the target."""
        if self._listening is not None or (now := time.monotonic()) < self._retry_at:
            return
        link, admission = routed.uplink.link, self._acceptor.admission
        room = admission.max_connections - self._acceptor.active
        if (
            isinstance(link, AcceptingLink)
            and self._is_simple(routed, route)
            and route.hold >= _MIN_HOLD
            and route.budget(routed) is None
            and room >= max(1, int(admission.max_connections * _MIN_ROOM))
            and listeners
            and all(each.is_tcp for each in listeners)
        ):
            sockets = tuple(sock for each in listeners for sock in each.sockets)
            make_tap = self._cancels.login_tap if self._cancels is not None else None
            rule = AcceptRule(sockets, routed.target, admission.allow, self._latency, make_tap)
            self._listening = link.listen(rule, room, self)
        if self._listening is None:
            self._retry_at = now + _RETRY_AFTER
            return
        self._ways[self._listening] = routed
        self._bound, self._ended = listeners, 0
        for each in listeners:
            each.delegate(self.withdraw)

    def review(self, route: Route) -> None:
        """Accept clients in this process again if the link of another target should accept them now."""
        listening = self._listening
        if listening is not None and not self._is_simple(self._ways[listening], route):
            self.withdraw()

    def _is_simple(self, routed: RoutedTarget, route: Route) -> bool:
        """Return whether all clients go to one target, regardless of who they are and what they send."""
        return (
            self._acceptor.accepts_anyone
            and (self._cancels is None or not self._cancels.has_sessions_elsewhere(routed.identity))
            and route.routes()[:1] == [routed]
        )

    def withdraw(self) -> None:
        """Accept clients in this process, effective immediately. Do nothing if no link accepts them."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.withdraw()
            self._accept_here()

    def recall(self) -> None:
        """Let the links return the clients that they have not joined."""
        for each in self._ways:
            each.recall()

    def on_client_ended(self) -> None:
        """Permit more clients after a client of the backend has ended."""
        listening = self._listening
        if listening is None:
            return
        self._ended += 1
        limit = self._acceptor.admission.max_connections
        if self._ended >= limit * _PERMIT_SHARE:
            self._ended = 0
            room = limit - self._acceptor.active - listening.unused
            if room > 0:
                listening.permit(room)

    # The link calls these methods.

    def on_joined(self, listener: LinkListener, relay: Relay, tap: Any, seconds: float) -> None:
        """See `AcceptedClientHandler`."""
        routed = self._ways[listener]
        self._acceptor.accepted += 1
        routed.uplink.channel_open.observe(seconds)
        self._on_joined(routed, relay, tap)

    def on_returned(self, listener: LinkListener, client: Stream, seconds: float) -> None:
        """See `AcceptedClientHandler`."""
        del listener
        self._acceptor.accept(client, seconds)
        self.on_client_ended()  # if it was refused, it needs no permit

    def on_stopped(self, listener: LinkListener, *, failed: bool) -> None:
        """See `AcceptedClientHandler`."""
        if listener is self._listening:
            self._listening = None
            if failed:
                self._retry_at = time.monotonic() + _RETRY_AFTER
            self._accept_here()

    def on_closed(self, listener: LinkListener) -> None:
        """See `AcceptedClientHandler`."""
        self._ways.pop(listener, None)

    def _accept_here(self) -> None:
        for each in self._bound:
            each.start(self._acceptor.accept)
        self._bound = []
