"""Interfaces of a link that accepts clients and joins them to a target, without the event loop of Python."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from gateway.contracts.link import Relay, Stream
from gateway.contracts.values import Endpoint, IpNetwork
from gateway.measurement import Histogram, Tap


@dataclass(frozen=True)
class AcceptRule:
    """Which clients a link accepts, and to which target it joins them.

    Args:
        sockets: Listening TCP sockets, non-blocking. The link uses duplicates; the caller still owns the sockets.
        to: The target.
        allow: Networks that are allowed to connect; empty to allow all.
        latency: Records the response latencies; see `gateway.contracts.link.Link.join`.
        make_tap: Creates the tap of each client, without a tracker; None if nothing observes the bytes.
    """

    sockets: tuple[socket.socket, ...]
    to: Endpoint
    allow: tuple[IpNetwork, ...]
    latency: Histogram
    make_tap: Callable[[], Tap] | None = None


class LinkListener(Protocol):
    """Accepts clients by one rule, until it stops or is withdrawn."""

    @property
    def waiting(self) -> int:
        """Number of clients that were accepted, and for which the handler was not called yet."""

    @property
    def unused(self) -> int:
        """Number of clients that can still be accepted before more are permitted; 0 after `withdraw`."""

    def permit(self, count: int) -> None:
        """Permit `count` more clients."""

    def withdraw(self) -> None:
        """Accept no more clients under the rule, effective immediately.

        The link returns a client that it accepts at this moment. Clients that were accepted before are joined or
        returned. The handler's `on_stopped` is not called.
        """

    def recall(self) -> None:
        """Return the clients that are not joined yet."""


class AcceptedClientHandler(Protocol):
    """Gets the clients that a link has accepted. Must not raise."""

    def on_joined(self, listener: LinkListener, relay: Relay, tap: Any, seconds: float) -> None:
        """Handle a client that was joined to the target, before any of its bytes.

        Args:
            listener: The listener.
            relay: Carries the bytes.
            tap: What the `make_tap` of the rule has returned; None if the rule has none.
            seconds: Seconds since the client was accepted.
        """

    def on_returned(self, listener: LinkListener, client: Stream, seconds: float) -> None:
        """Handle a client that the rule does not allow, or whose dial failed or took too long.

        Args:
            listener: The listener.
            client: The client's socket, from which nothing was read. The handler owns it.
            seconds: Seconds since the client was accepted.
        """

    def on_stopped(self, listener: LinkListener, *, failed: bool) -> None:
        """Accept clients elsewhere.

        Args:
            listener: The listener.
            failed: Whether all permits are used, a dial failed or is slow, or accepting failed. If not, the link has
                changed, and can accept clients again immediately.
        """

    def on_closed(self, listener: LinkListener) -> None:
        """Forget a listener that has stopped or was withdrawn, and has no more clients. This is the last call."""


@runtime_checkable
class AcceptingLink(Protocol):
    """A link that can accept clients."""

    def listen(self, rule: AcceptRule, permits: int, handler: AcceptedClientHandler) -> LinkListener | None:
        """Accept clients by a rule.

        Args:
            rule: The rule.
            permits: Number of clients to accept until more are permitted.
            handler: Gets the clients.

        Returns:
            None if this link cannot accept clients now.
        """
