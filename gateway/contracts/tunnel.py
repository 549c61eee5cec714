"""The interface of a tunnel."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from gateway.contracts.link import Link, LinkStatus
from gateway.contracts.states import TunnelState
from gateway.errors import Reason


@dataclass(frozen=True)
class OpenTunnel:
    """An open tunnel, for the uplink that keeps it open.

    Args:
        link: Connects to addresses on the far side.
        status: Returns what the link reports about itself.
        renew: Uses keys or certificates that have changed on disk, without closing connections.
    """

    link: Link
    status: Callable[[], LinkStatus] = LinkStatus
    renew: Callable[[], None] = lambda: None


class Progress(Protocol):
    """Callback for state changes of a tunnel: its progress while it opens, then `up` and `suspect`."""

    def __call__(self, state: TunnelState, reason: Reason | None = None, detail: str = "", /) -> None:
        """Report a new state, its reason and one line of detail."""


class Tunnel(Protocol):
    """A configured way into a remote network."""

    @property
    def far_side(self) -> str:
        """The remote end, for messages: `user@host:port`."""

    def open(self, via: Link, progress: Progress) -> AbstractAsyncContextManager[OpenTunnel]:
        """Open the tunnel through `via`. The tunnel closes when the context exits.

        An open tunnel whose peer stops answering reports `suspect` to `progress`, and `up` when it answers again.

        Args:
            via: The link to dial through.
            progress: Receives the tunnel's states.

        Raises (on entry):
            TunnelError: The tunnel cannot be opened.
            DialError: `via` cannot reach the tunnel's server.
            LinkLostError: `via` was lost while the tunnel opened.
        """
