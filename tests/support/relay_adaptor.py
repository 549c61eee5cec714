"""The interface of each kind of relay for the relays' contract."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.contracts.link import Relay
from gateway.contracts.states import CloseReason
from gateway.measure import Tap
from tests.support.ends import End
from tests.support.plans import Setup, Step, Verbs
from tests.support.tcp_end import TcpEnd


class Joined(NamedTuple):
    """A connection that was just created."""

    client: TcpEnd
    far: End
    relay: Relay


class Adaptor(Verbs, Protocol):
    """A kind of relay: creates one, and accesses its internals."""

    name: str
    lost: CloseReason
    """How a relay reports that its carrier was lost."""
    shows_loss: bool
    """Whether a far side that closes shows what it did not take: what is behind an SSH server never does."""
    reports_breaks: bool
    """Whether both ends learn of a reset: what is behind an SSH server sees an end instead."""
    keeps_response: bool
    """Whether a client gets what its backend had sent before it closed, although the close breaks something."""
    ends_early: bool
    """Whether a far side learns of its client's end before that has its response."""
    pace: float
    """Seconds of one turn of the loop, if another process needs them."""
    stalled: bool
    """Return whether nothing can be sent to the far side now."""

    async def join(self, setup: Setup, changed: Callable[[], None], tap: Tap | None) -> Joined: ...

    def order(self, step: Step) -> bool:
        """Apply an event to the link; return False if that is not possible."""

    async def restore(self, *, reconnect: bool) -> None:
        """Prepare the next connection; `reconnect`: the link is lost or in an unknown state.

        Raises:
            AssertionError: The link is lost, without `reconnect`.
        """

    def leftovers(self, relay: Relay) -> list[str]:
        """Return what is left of a connection that has ended."""
