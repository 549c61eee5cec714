"""Defines the interfaces of links. A link is an open connection into a network."""

import socket
from dataclasses import dataclass, fields
from math import inf
from typing import Protocol

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.errors import TunnelError
from gateway.metric_types import Histogram

Stream = socket.socket
"""A connected, non-blocking stream socket."""


@dataclass(frozen=True)
class RemoteNetworkId:
    """A network into which a link leads. In two networks, the same address can belong to two different hosts.

    Args:
        hops: The servers of the tunnels that lead to the network, such as `user@bastion:22`. The gateway reaches the
            first server without a tunnel. Empty for the network of this host.
    """

    hops: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether the network is that of the gateway's own host, which the gateway reaches without a tunnel."""
        return not self.hops

    def behind(self, hop: str) -> "RemoteNetworkId":
        """Return the network behind `hop`, a tunnel server in this network.

        Args:
            hop: The server of the tunnel, such as `user@bastion:22`.
        """
        return RemoteNetworkId((*self.hops, hop))

    def __str__(self) -> str:
        """Return a name for messages: the servers on the way to the network, or `this host`.

        For example, return `user@a:22 > user@b:22`.
        """
        return " > ".join(self.hops) or "this host"


class SocketConnector(Protocol):
    """Defines the part of a link's interface that probes use: connecting a socket to a target."""

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        """Connect a non-blocking socket to `to`.

        Args:
            to: The target.
            phases: Records the durations of the phases of the dial.

        Returns:
            The connected socket. The caller owns it.

        Raises:
            DialError: The target cannot be reached.
            LinkLostError: The link failed during the dial.
        """


class Link(SocketConnector, Protocol):
    """Defines the interface of links. A link is an open connection into a network, and connects sockets there."""

    network: RemoteNetworkId
    """The network in which the link connects to targets."""

    async def join(
        self, client: Stream, to: HostPort, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """Dial `to`, and forward bytes between the target and `client`.

        The link reads no data from `client` until it has connected to the target.

        Args:
            client: A non-blocking stream socket.
            to: The target.
            latency: Records the response latencies: from the last byte of a request to the first byte of its
                response.
            within: Maximum number of seconds for the dial. The link can apply a shorter limit.
            tap: Observes the forwarded bytes until `tap.finished` is true.

        Returns:
            The relay. It owns `client`. If this method raises, the caller still owns `client`.

        Raises:
            DialError: The target cannot be reached.
            LinkLostError: The link failed during the dial.
            RedialRequiredError: One of the link's connections failed during the dial. The caller can dial again; see
                `gateway.relay.dial_retry`.
        """

    async def lost(self) -> TunnelError:
        """Wait until the link is lost, and return the error.

        The error's `fatal` is False, because a retry can succeed.
        """


@dataclass(frozen=True)
class LinkStatus:
    """The status of a link. Each kind of tunnel adds more fields. No field contains a secret.

    Args:
        rtt: The last measured round-trip time to the far side in seconds; None if it is not known.
    """

    rtt: float | None = None

    @property
    def details(self) -> dict[str, object]:
        """The fields that the kind of the tunnel adds, by name. A value is None if it is not known."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "rtt"}
