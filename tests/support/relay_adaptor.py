"""Defines the interface between the relay contract and each kind of relay."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.connection_tap import Tap
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from tests.support.ends import End
from tests.support.plans import Setup, Step, Verbs
from tests.support.tcp_end import TcpEnd


class Joined(NamedTuple):
    """A new connection: the two ends, and the relay between them."""

    client: TcpEnd
    far: End
    relay: Relay


class Adaptor(Verbs, Protocol):
    """Adapts one kind of relay to the contract: creates relays, and accesses their internals."""

    name: str
    lost: CloseReason
    """The close reason that a relay reports when its link is lost."""
    shows_loss: bool
    """Whether the relay can detect that the far side closed without reading all data; false behind an SSH server."""
    reports_breaks: bool
    """Whether a reset of one end resets the other; behind an SSH server, the far side sees a clean end instead."""
    keeps_response: bool
    """Whether a client gets all data that its backend sent before a close, even if the close resets the client."""
    ends_early: bool
    """Whether the far side can see the client's end of stream before the client has the whole response."""
    pace: float
    """The seconds to wait in each turn of the loop, to let other processes run."""
    stalled: bool
    """Whether the path to the far side is stalled now."""

    async def join(self, setup: Setup, changed: Callable[[], None], tap: Tap | None) -> Joined: ...

    def order(self, step: Step) -> bool:
        """Apply an event to the link; return False if the link cannot handle this event in its present state."""

    def refresh(self) -> None:
        """Handle what the relay's data plane has reported and the event loop has not handled yet."""

    async def restore(self, *, reconnect: bool) -> None:
        """Prepare the adaptor for the next connection.

        Args:
            reconnect: Whether the link is lost or in an unknown state.

        Raises:
            AssertionError: The link is lost although `reconnect` is false.
        """

    def leftovers(self, relay: Relay) -> list[str]:
        """Return a description of each resource that a closed connection has left; empty if there is none."""
