"""Defines the interface of tunnels, which provide links into remote networks."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from gateway.contracts.link import Link, LinkStatus
from gateway.contracts.states import TunnelState
from gateway.errors import FailureReason


@dataclass(frozen=True)
class TunnelOpenResult:
    """An open tunnel.

    Args:
        link: Connects sockets to targets in the network behind the tunnel.
        status: Returns the status of the link.
        renew: Makes the tunnel use changed keys, certificates or VPN files. Client connections stay open, unless a
            changed VPN file requires the gateway to open the tunnel again.
    """

    link: Link
    status: Callable[[], LinkStatus] = LinkStatus
    renew: Callable[[], None] = lambda: None


class TunnelStateCallback(Protocol):
    """A callback that a tunnel calls when its state changes, for example to `up` or `suspect`."""

    def __call__(self, state: TunnelState, reason: FailureReason | None = None, detail: str = "", /) -> None:
        """Report a new state of the tunnel, with its reason and one line of detail."""


class Tunnel(Protocol):
    """Defines the interface of a configured tunnel into a remote network."""

    @property
    def far_side(self) -> str:
        """The name of the tunnel's server, such as `user@host:port`. The gateway uses this name in messages."""

    def open(self, via: Link, progress: TunnelStateCallback) -> AbstractAsyncContextManager[TunnelOpenResult]:
        """Open the tunnel through `via`. The tunnel closes when the context exits.

        If the server of an open tunnel stops responding, the tunnel reports `suspect` to `progress`. When the server
        responds again, the tunnel reports `up`.

        Args:
            via: The link through which the tunnel dials its server.
            progress: Receives the tunnel's states.

        Raises (on entry):
            TunnelError: The tunnel cannot be opened.
            DialError: `via` cannot reach the tunnel's server.
            LinkLostError: `via` was lost while the tunnel opened.
        """
