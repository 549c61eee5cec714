"""Lets the native engine accept the clients of a backend, as long as no client needs a decision by Python code."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from gateway.contracts.link import Stream
from gateway.contracts.native_listener_interfaces import (
    LinkWithNativeListeners,
    NativeListenerInterface,
    NativeListenerRule,
    ShortLivedConnectionTotals,
)
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.forwarding.aborted_handshake_budget import LOGIN_RESPONSES, REPORT_DELAY, AbortedHandshakeBudget
from gateway.forwarding.acceptor import Acceptor
from gateway.forwarding.listener import Listener
from gateway.forwarding.query_cancel_router import QueryCancelRouter
from gateway.forwarding.retrying_dialer import RetryingDialer
from gateway.forwarding.target_dialer import TargetDialer
from gateway.forwarding.target_path import LinkProvider, TargetPath
from gateway.metric_types import Histogram
from gateway.query_cancel_parser import CancelKeyTap

_RETRY_AFTER = 1.0
"""Number of seconds for which `offer` does nothing after one of these events: `offer` could not start a listener,
the listener of a link failed, or `_stop` was called."""
_MIN_HOLD = 3.0
"""Minimum `BackendRoute.hold`, in seconds, with which native listeners accept clients. If the hold is shorter, Python
code accepts all clients, because Python code enforces the hold more precisely."""
_MIN_ROOM = 0.25
"""A link starts to accept clients only if it may accept at least this fraction of `_limit` (see `_room`)."""
_MIN_BUDGET_ROOM = 8
"""A link starts to accept the clients of a MySQL server only if the handshake budget has room for at least this
number of clients."""
_BUDGET_SHARE = 0.75
"""Links use at most this fraction of the free handshake budget for the clients of one backend. The rest is for other
backends with the same server."""
_PERMIT_SHARE = 1 / 64
"""When the number of calls of `count_change` reaches this fraction of `_limit`, the link may accept more clients."""


class _PathWithHandshakeBudget(NamedTuple):
    """A path to a target, and the path's handshake budget (None if the server does not count aborted handshakes)."""

    target_path: TargetPath
    budget: AbortedHandshakeBudget | None


class NativeAcceptor:
    """Lets a link accept the clients of one backend; implements `AcceptedClientHandler`.

    Python code (the `Acceptor`) accepts the first clients. After it has connected a client through a link, the link
    can accept the next clients. Examples of when the `Acceptor` takes over again:

    - The route or the admission rules change.
    - A dial fails.
    - The number of connections is close to the limit.

    If the link cannot connect a client to the target, it returns the client to the `Acceptor`.

    Args:
        acceptor: Accepts the clients that the link returns.
        dialer: Provides the current route, and records logins and aborted handshakes.
        latency: Records the response latencies.
        on_joined: Called for each client that the link has connected to the target. Receives the path to the target,
            the relay, the tap that observes the login, and the earliest monotonic time at which the client can have
            logged in.
        on_served: Called with the totals of clients that had very short connections.
        cancels: Routes cancel requests; None if clients send no cancel requests on separate connections. A link sends
            all cancel requests to one target. It therefore accepts clients only while no other target has sessions.
    """

    def __init__(
        self,
        acceptor: Acceptor,
        dialer: RetryingDialer,
        latency: Histogram,
        on_joined: Callable[[TargetPath, Relay, CancelKeyTap | None, float], None],
        on_served: Callable[[ShortLivedConnectionTotals], None],
        cancels: QueryCancelRouter | None = None,
    ) -> None:
        self._acceptor = acceptor
        self._dialer = dialer
        self._latency = latency
        self._on_joined = on_joined
        self._on_served = on_served
        self._cancels = cancels
        self._listening: NativeListenerInterface | None = None
        """The native listener that currently accepts the clients; None if Python code accepts them."""
        self._paths: dict[NativeListenerInterface, _PathWithHandshakeBudget] = {}
        """Maps each native listener to the path of its clients. A stopped listener remains until `on_closed`."""
        self._bound: list[Listener] = []
        """The backend's listeners, while a link accepts their clients; otherwise, empty."""
        self._changes = 0
        """Number of calls of `count_change` since a native listener started. Starts at 0 again when it reaches
        `_PERMIT_SHARE` of `_limit`."""
        self._retry_at = 0.0

    @property
    def _target_dialer(self) -> TargetDialer:
        return self._dialer.target_dialer  # do not cache the `TargetDialer`, because a reload replaces it

    @property
    def waiting(self) -> int:
        """Number of clients that links have accepted, and are still connecting to the target."""
        return sum(each.waiting for each in self._paths)

    @property
    def clients(self) -> int:
        """Number of current clients that links have not passed to Python code yet. Includes `waiting`."""
        return sum(each.clients for each in self._paths)

    def count_on(self, uplink: LinkProvider) -> int:
        """Return the value of `clients` for the links of `uplink` only."""
        return sum(each.clients for each, path in self._paths.items() if path.target_path.uplink is uplink)

    def offer(self, target_path: TargetPath, listeners: list[Listener]) -> None:
        """Try to let a link accept the next clients. Call this method after connecting each client.

        Args:
            target_path: The path of the connected client. The link of this path accepts the next clients.
            listeners: The listeners of the backend.
        """
        if self._listening is not None or (now := time.monotonic()) < self._retry_at:
            return
        link, admission, route = target_path.uplink.link, self._acceptor.admission, self._target_dialer.route
        path = _PathWithHandshakeBudget(target_path, route.budget(target_path))
        room = self._room(path)
        if (
            isinstance(link, LinkWithNativeListeners)
            and self._all_clients_use(target_path)
            and route.hold >= _MIN_HOLD
            and room >= max(1 if path.budget is None else _MIN_BUDGET_ROOM, int(self._limit(path) * _MIN_ROOM))
            and listeners
            and all(each.is_tcp for each in listeners)
        ):
            sockets = tuple(sock for each in listeners for sock in each.sockets)
            make_tap = self._cancels.cancel_key_tap if self._cancels is not None else None
            open_time = target_path.uplink.channel_open
            min_responses = LOGIN_RESPONSES if path.budget is not None else 0
            rule = NativeListenerRule(
                sockets, target_path.target, admission.allow, self._latency, open_time, make_tap, min_responses
            )
            self._listening = link.listen(rule, room, self)
        if self._listening is None:
            self._retry_at = now + _RETRY_AFTER
            return
        self._paths[self._listening] = path
        if path.budget is not None:
            path.budget.listeners[self._listening] = partial(self._stop, self._listening)
        self._bound, self._changes = listeners, 0
        for each in listeners:
            each.delegate(self.withdraw)

    def _limit(self, path: _PathWithHandshakeBudget) -> int:
        """Return the lower of two limits: `max_connections`, and the limit of the path's handshake budget."""
        limit = self._acceptor.admission.max_connections
        return min(limit, path.budget.limit) if path.budget is not None else limit

    def _room(self, path: _PathWithHandshakeBudget) -> int:
        """Return how many more clients the links may accept, in addition to their unused permits.

        The result can be negative.
        """
        reserved = sum(each.reserved for each in self._paths)
        room = self._acceptor.admission.max_connections - self._acceptor.active_here
        if path.budget is not None:
            room = min(room, int((path.budget.room_for_links(time.monotonic()) + reserved) * _BUDGET_SHARE))
        return room - reserved

    def review(self) -> None:
        """Let Python code accept the clients again, if the native engine can no longer serve every client."""
        listening = self._listening
        if listening is None:
            return
        target_path, budget = self._paths[listening]
        if not self._all_clients_use(target_path) or (budget is not None and budget.room(time.monotonic()) < 0):
            self.withdraw()

    def _all_clients_use(self, target_path: TargetPath) -> bool:
        """Return whether all new clients use this path, regardless of who they are and what they send."""
        return (
            self._acceptor.accepts_anyone
            and (self._cancels is None or not self._cancels.has_sessions_elsewhere(target_path.identity))
            and self._target_dialer.route.paths()[:1] == [target_path]
        )

    def withdraw(self) -> None:
        """If a link accepts clients, make the link stop accepting. Python code then accepts clients immediately."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.withdraw()
            self._accept_here()

    def _stop(self, listening: NativeListenerInterface) -> None:
        """Stop the native listener of a link, so that waiting clients can use its share of the permitted handshakes.

        For the next `_RETRY_AFTER` seconds, the event loop accepts the clients instead of the native engine.
        """
        if listening is self._listening:
            self._retry_at = time.monotonic() + _RETRY_AFTER
            self.withdraw()

    def recall(self) -> None:
        """Make the links return all clients that are not connected to the target yet (see `on_returned`)."""
        for each in self._paths:
            each.recall()

    def count_change(self) -> None:
        """Count an event after which the link might be able to accept more clients, such as the end of a connection.

        When the count reaches `_PERMIT_SHARE` of `_limit`, permit the link to accept more clients, if there is room.
        """
        listening = self._listening
        if listening is None:
            return
        self._changes += 1
        path = self._paths[listening]
        if self._changes >= self._limit(path) * _PERMIT_SHARE:
            self._changes = 0
            room = self._room(path)
            if room > 0:
                listening.permit(room)

    # The link calls the following methods of `AcceptedClientHandler`.

    def on_joined(self, listener: NativeListenerInterface, relay: Relay, tap: Any) -> None:
        """Handle a client that the link has connected to the target; implements `AcceptedClientHandler.on_joined`."""
        path = self._paths.get(listener)
        if path is None:
            # `link.listen` failed after the link had already accepted this client: reset the connection.
            relay.abort(CloseReason.ABORTED)
            return
        self._acceptor.accepted += 1
        now = time.monotonic()
        if path.budget is not None:
            path.budget.add_client(relay, now)
        self._on_joined(path.target_path, relay, tap, now - REPORT_DELAY)
        if path.budget is not None:
            # A client uses the handshake budget only until its login, so the link might soon accept more clients.
            self.count_change()

    def on_served(self, listener: NativeListenerInterface, clients: ShortLivedConnectionTotals) -> None:
        """Count clients whose short connections have ended; implements `AcceptedClientHandler.on_served`."""
        self._acceptor.accepted += clients.total
        self._on_served(clients)
        if (path := self._paths.get(listener)) is not None and path.budget is not None:
            now = time.monotonic()
            path.budget.record_client_login(now - REPORT_DELAY, now, LOGIN_RESPONSES)

    def on_returned(
        self, listener: NativeListenerInterface, client: Stream, seconds: float, *, abandoned: bool
    ) -> None:
        """Let the `Acceptor` handle a returned client; implements `AcceptedClientHandler.on_returned`."""
        if abandoned and (path := self._paths.get(listener)) is not None:
            self._target_dialer.record_abandoned(path.target_path)
        self._acceptor.accept(client, seconds)
        # The link no longer reserves room for this client, so the link might be able to accept more clients.
        self.count_change()

    def on_stopped(self, listener: NativeListenerInterface, *, failed: bool) -> None:
        """Accept further clients in Python code; implements `AcceptedClientHandler.on_stopped`."""
        if listener is self._listening:
            self._listening = None
            if failed:
                self._retry_at = time.monotonic() + _RETRY_AFTER
            self._accept_here()

    def on_closed(self, listener: NativeListenerInterface) -> None:
        """Remove a listener that has stopped; implements `AcceptedClientHandler.on_closed`."""
        path = self._paths.pop(listener, None)
        if path is not None and path.budget is not None:
            path.budget.listeners.pop(listener, None)

    def _accept_here(self) -> None:
        for each in self._bound:
            each.start(self._acceptor.accept)
        self._bound = []
