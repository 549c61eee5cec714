"""The interface of a link, and of the connections that it joins."""

import asyncio
import socket
from dataclasses import dataclass, fields
from math import inf
from typing import Protocol

from gateway.contracts.phases import Phases
from gateway.contracts.states import CloseReason
from gateway.contracts.values import Endpoint
from gateway.measure import Histogram, Tap

Stream = socket.socket
"""A connected, non-blocking stream socket."""


@dataclass(frozen=True)
class Network:
    """A network in which links connect sockets. The same address in two networks belongs to two different hosts.

    Args:
        hops: The tunnels on the way, outermost first; empty for the network of this host.
    """

    hops: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether this host is in the network."""
        return not self.hops

    def behind(self, hop: str) -> "Network":
        """Return the network on the far side of a tunnel whose server is in this network.

        Args:
            hop: The far side of the tunnel.
        """
        return Network((*self.hops, hop))

    def __str__(self) -> str:
        """Return the far sides of the tunnels, for messages."""
        return " > ".join(self.hops) or "this host"


class Relay(Protocol):
    """A client socket joined to a target. It forwards bytes until both directions have ended."""

    last_active: float
    """Monotonic time of the last activity on either side."""
    ended: "asyncio.Future[CloseReason]"
    responses: int
    """Number of times that the backend responded after the client had sent data."""

    @property
    def awaiting_response(self) -> bool:
        """Whether the client sent data last, and so probably waits for a response."""

    @property
    def waiting_since(self) -> float | None:
        """Monotonic time since which the client has waited for a response; None if it does not wait or is unknown."""

    @property
    def to_backend(self) -> int:
        """Bytes read from the client."""

    @property
    def from_backend(self) -> int:
        """Bytes read from the backend."""

    def abort(self, close_reason: CloseReason) -> None:
        """Reset both sides immediately.

        Exception: with `LINK_LOST`, a client whose response was received completely first gets the rest of it.
        `ended` is set after that.
        """


class Connector(Protocol):
    """Connects sockets to targets. A probe uses only this part of a link."""

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """Connect a non-blocking socket to `to`.

        Args:
            to: The target.
            phases: Receives the durations of the phases of the dial.

        Returns:
            The connected socket. The caller owns it.

        Raises:
            DialError: The target cannot be reached.
            LinkLostError: The link failed during the dial.
        """


class Link(Connector, Protocol):
    """An open connection into a network. Connects sockets to targets there until it is lost."""

    network: Network
    """The network of the targets."""

    async def join(
        self, client: Stream, to: Endpoint, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """Dial `to` and forward bytes between it and `client`.

        Nothing is read from `client` until the target is connected.

        Args:
            client: A non-blocking stream socket.
            to: The target.
            latency: Receives the response latencies: from the last byte of a request to the first of its response.
            within: Seconds for the dial. The link's own deadline may be shorter.
            tap: Sees the bytes until it is finished.

        Returns:
            The relay. It owns `client`. If this method raises, the caller still owns `client`.

        Raises:
            DialError: The target cannot be reached.
            LinkLostError: The link failed during the dial.
            RedialError: Only the connection that carried the dial failed; see `gateway.relay.redial`.
        """

    async def lost(self) -> str:
        """Wait until the link is lost, and return the cause."""


@dataclass(frozen=True)
class LinkStatus:
    """What a link reports about itself. Each kind of tunnel adds its own fields. They contain no secrets.

    Args:
        rtt: The last measured round-trip time to the far side in seconds; None: not known.
    """

    rtt: float | None = None

    @property
    def details(self) -> dict[str, object]:
        """The fields that the kind has added, by name. None: not known."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "rtt"}
