"""Lets the native engine accept the clients of a backend, as long as no client needs a decision by Python code."""

import time
from collections.abc import Callable
from typing import Any

from gateway.contracts.link import Stream
from gateway.contracts.listening_link import (
    ClientAcceptRule,
    LinkClientListener,
    ListeningLink,
    ShortConnectionTotals,
)
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.forwarding.acceptor import Acceptor
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.cancel_request_router import CancelRequestRouter
from gateway.forwarding.listener import Listener
from gateway.forwarding.target_with_uplink import LinkProvider, TargetWithUplink
from gateway.metric_types import Histogram
from gateway.query_cancel_protocol import CancelKeyTap

_RETRY_AFTER = 1.0
"""Minimum seconds between two attempts to let a link accept clients, if the first attempt or the link has failed."""
_MIN_HOLD = 3.0
"""If `BackendRoute.hold` is less than this number of seconds, links accept no clients. Python code then accepts them,
because it enforces a short limit more precisely."""
_MIN_ROOM = 0.25
"""Minimum fraction of `max_connections` that must be free before a link starts to accept clients."""
_PERMIT_SHARE = 1 / 64
"""Fraction of `max_connections`. When this many connections have ended, the link is permitted to accept more."""


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
            the relay, and the tap that observes the login.
        on_served: Called with the number and the bytes of clients whose short connections the link reports together.
        cancels: Routes cancel requests; None if clients send no cancel requests on separate connections. A link sends
            all cancel requests to its only target, so it accepts clients only while no other target has sessions.
    """

    def __init__(
        self,
        acceptor: Acceptor,
        latency: Histogram,
        on_joined: Callable[[TargetWithUplink, Relay, CancelKeyTap | None], None],
        on_served: Callable[[ShortConnectionTotals], None],
        cancels: CancelRequestRouter | None = None,
    ) -> None:
        self._acceptor = acceptor
        self._latency = latency
        self._on_joined = on_joined
        self._on_served = on_served
        self._cancels = cancels
        self._listening: LinkClientListener | None = None
        """The link's listener that currently accepts the clients; None if Python code accepts them."""
        self._paths: dict[LinkClientListener, TargetWithUplink] = {}
        """For each `LinkClientListener` that still has clients or can accept them: the path over which it dials."""
        self._bound: list[Listener] = []
        """The backend's listeners on whose sockets the link accepts clients."""
        self._ended = 0
        """Number of connections that have ended since the link last received permits to accept clients."""
        self._retry_at = 0.0

    @property
    def waiting(self) -> int:
        """Number of clients that links have accepted, but neither connected to the target nor returned yet."""
        return sum(each.waiting for each in self._paths)

    @property
    def clients(self) -> int:
        """Number of current clients that links have accepted, but not yet passed to this object."""
        return sum(each.clients for each in self._paths)

    def count_on(self, uplink: LinkProvider) -> int:
        """Return the number of `clients` that the links of `uplink` have accepted."""
        return sum(each.clients for each, routed in self._paths.items() if routed.uplink is uplink)

    def offer(self, routed: TargetWithUplink, route: BackendRoute, listeners: list[Listener]) -> None:
        """Let a link accept clients, if the rules permit this. Call this method after each client is connected.

        Args:
            routed: The path over which the client was connected. Its link accepts the next clients.
            route: The current route.
            listeners: The listeners of the backend.
        """
        if self._listening is not None or (now := time.monotonic()) < self._retry_at:
            return
        link, admission = routed.uplink.link, self._acceptor.admission
        room = admission.max_connections - self._acceptor.active
        if (
            isinstance(link, ListeningLink)
            and self._is_simple(routed, route)
            and route.hold >= _MIN_HOLD
            and route.budget(routed) is None
            and room >= max(1, int(admission.max_connections * _MIN_ROOM))
            and listeners
            and all(each.is_tcp for each in listeners)
        ):
            sockets = tuple(sock for each in listeners for sock in each.sockets)
            make_tap = self._cancels.cancel_key_tap if self._cancels is not None else None
            open_time = routed.uplink.channel_open
            rule = ClientAcceptRule(sockets, routed.target, admission.allow, self._latency, open_time, make_tap)
            self._listening = link.listen(rule, room, self)
        if self._listening is None:
            self._retry_at = now + _RETRY_AFTER
            return
        self._paths[self._listening] = routed
        self._bound, self._ended = listeners, 0
        for each in listeners:
            each.delegate(self.withdraw)

    def review(self, route: BackendRoute) -> None:
        """Stop the link from accepting clients if it can no longer handle all new clients of this backend."""
        listening = self._listening
        if listening is not None and not self._is_simple(self._paths[listening], route):
            self.withdraw()

    def _is_simple(self, routed: TargetWithUplink, route: BackendRoute) -> bool:
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

    def on_client_ended(self) -> None:
        """Count an ended connection, and permit the link to accept more clients if enough connections have ended."""
        listening = self._listening
        if listening is None:
            return
        self._ended += 1
        limit = self._acceptor.admission.max_connections
        if self._ended >= limit * _PERMIT_SHARE:
            self._ended = 0
            room = limit - self._acceptor.active_here - sum(each.reserved for each in self._paths)
            if room > 0:
                listening.permit(room)

    # The link calls the following methods of `AcceptedClientHandler`.

    def on_joined(self, listener: LinkClientListener, relay: Relay, tap: Any) -> None:
        """See `AcceptedClientHandler`."""
        routed = self._paths.get(listener)
        if routed is None:  # `listen` failed after the link had accepted this client
            relay.abort(CloseReason.ABORTED)
            return
        self._acceptor.accepted += 1
        self._on_joined(routed, relay, tap)

    def on_served(self, listener: LinkClientListener, clients: ShortConnectionTotals) -> None:
        """See `AcceptedClientHandler`."""
        del listener
        self._acceptor.accepted += clients.total
        self._on_served(clients)

    def on_returned(self, listener: LinkClientListener, client: Stream, seconds: float) -> None:
        """See `AcceptedClientHandler`."""
        del listener
        self._acceptor.accept(client, seconds)
        self.on_client_ended()  # the client no longer uses a permit of the link

    def on_stopped(self, listener: LinkClientListener, *, failed: bool) -> None:
        """See `AcceptedClientHandler`."""
        if listener is self._listening:
            self._listening = None
            if failed:
                self._retry_at = time.monotonic() + _RETRY_AFTER
            self._accept_here()

    def on_closed(self, listener: LinkClientListener) -> None:
        """See `AcceptedClientHandler`."""
        self._paths.pop(listener, None)

    def _accept_here(self) -> None:
        for each in self._bound:
            each.start(self._acceptor.accept)
        self._bound = []
