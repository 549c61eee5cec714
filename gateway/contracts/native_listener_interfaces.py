"""Defines the interfaces of links that accept clients, and connect them to a target, outside the event loop."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort, IpNetwork
from gateway.contracts.link import Stream
from gateway.contracts.relay import Relay
from gateway.metric_types import Histogram


@dataclass(frozen=True)
class NativeListenerRule:
    """The rule by which a link accepts clients: on which sockets, from which networks, and for which target.

    Args:
        sockets: Non-blocking, listening TCP sockets. The link duplicates them, so the caller still owns the sockets.
        to: The target.
        allow: Networks that are allowed to connect; empty to allow all.
        latency: Records the response latencies; see `gateway.contracts.link.Link.join`.
        open_time: Records the time from accepting each client to connecting it to the target.
        make_tap: Creates a tap for each client. The `tracker` of the tap must be None. If `make_tap` is None, the
            connections have no taps.
        min_responses: The link counts a client in `ShortLivedConnectionTotals` only if the client has received at
            least this number of responses (see `Relay.responses`). It reports all other clients individually.
    """

    sockets: tuple[socket.socket, ...]
    to: HostPort
    allow: tuple[IpNetwork, ...]
    latency: Histogram
    open_time: Histogram
    make_tap: Callable[[], Tap] | None = None
    min_responses: int = 0


class ShortLivedConnectionTotals(NamedTuple):
    """Totals of clients with very short connections. The link reports these clients together, not individually.

    Args:
        total: Number of clients.
        resets: Number of these clients that have reset their connection.
        to_backend: Number of bytes that these clients sent to the backend.
        from_backend: Number of bytes that these clients received from the backend.
    """

    total: int
    resets: int
    to_backend: int
    from_backend: int


class NativeListenerInterface(Protocol):
    """Defines the interface of a listener that accepts clients according to one `NativeListenerRule`."""

    @property
    def waiting(self) -> int:
        """Number of accepted clients that the link has neither connected to the target nor returned to the handler.

        If the link cannot connect a client to the target, it returns the client to the handler.
        """

    @property
    def clients(self) -> int:
        """Number of current clients that the link has not passed to the handler yet. Includes `waiting`.

        The link passes a connected client to the handler only after about 50 ms.
        """

    @property
    def reserved(self) -> int:
        """Number of `clients`, plus the number of unused permits. A stopped listener has no unused permits."""

    def permit(self, count: int) -> None:
        """Permit the link to accept `count` more clients."""

    def withdraw(self) -> None:
        """Stop accepting clients immediately. The link does not call the handler's `on_stopped`.

        The link still connects or returns the clients that it has already accepted. If the link accepts a client
        during this call, the link returns the client to the handler.
        """

    def recall(self) -> None:
        """Make the link call the handler's `on_returned` for each client that is not yet connected to the target."""


class AcceptedClientHandler(Protocol):
    """Defines the callbacks of a `LinkWithNativeListeners`. The methods must not raise errors."""

    def on_joined(self, listener: NativeListenerInterface, relay: Relay, tap: Any) -> None:
        """Handle a client that the link has connected to the target. The relay might already have forwarded bytes.

        The link calls this method before it passes bytes to the tap, and before it reports the end of the relay.

        Args:
            listener: The listener.
            relay: Forwards the bytes between the client and the target.
            tap: The client's tap, from the rule's `make_tap`; None if the rule has no `make_tap`.
        """

    def on_served(self, listener: NativeListenerInterface, clients: ShortLivedConnectionTotals) -> None:
        """Count clients whose connections to the target ended within about 50 ms.

        The link does not call `on_joined` for these clients. Their permits become unused again.
        """

    def on_returned(
        self, listener: NativeListenerInterface, client: Stream, seconds: float, *, abandoned: bool
    ) -> None:
        """Handle a client that the link did not connect to the target.

        For example, the dial failed or took too long, or `NativeListenerRule.allow` does not contain the client's
        address.

        Args:
            listener: The listener.
            client: The client's socket, from which nothing was read. The handler owns it.
            seconds: Seconds since the client was accepted.
            abandoned: Whether the link abandoned a dial. The target might have accepted this dial, or might still
                accept it.
        """

    def on_stopped(self, listener: NativeListenerInterface, *, failed: bool) -> None:
        """Handle the permanent stop of the listener. The handler must now accept new clients itself.

        Args:
            listener: The listener.
            failed: True after a failure (for example, a dial failed or was slow), or if no permits are left. False if
                the link's connections or settings changed: the handler can then call `listen` again immediately.
        """

    def on_closed(self, listener: NativeListenerInterface) -> None:
        """Release the resources of a stopped listener.

        This call is the last call for the listener. The link has already passed all clients of the listener to the
        handler.
        """


@runtime_checkable
class LinkWithNativeListeners(Protocol):
    """Defines the interface of links that accept clients, and connect them to a target, without the event loop."""

    def listen(
        self, rule: NativeListenerRule, permits: int, handler: AcceptedClientHandler
    ) -> NativeListenerInterface | None:
        """Accept clients according to a rule, and connect them to the target of the rule.

        Args:
            rule: The sockets, the target, and the allowed clients.
            permits: Maximum number of clients to accept. `NativeListenerInterface.permit` increases this number.
            handler: Receives the clients.

        Returns:
            The listener; None if this link cannot accept clients now.
        """
