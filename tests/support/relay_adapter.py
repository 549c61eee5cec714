"""Defines the interface through which `relay_contract.py` tests different kinds of relays."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.connection_tap import Tap
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from tests.support.ends import End
from tests.support.plans import Setup, Step, Verbs
from tests.support.tcp_end import TcpEnd


class Joined(NamedTuple):
    """A client and a far side that the test controls, and the relay under test between them."""

    client: TcpEnd
    far: End
    relay: Relay


class RelayAdapter(Verbs, Protocol):
    """Creates relays of one kind for the tests, and gives the tests access to the internals of these relays."""

    name: str
    lost: CloseReason
    """The close reason that a relay reports after its link has broken."""
    shows_loss: bool
    """Whether the relay can detect that the far side closed without reading all data of the client."""
    reports_breaks: bool
    """Whether a reset at one end also resets the other end. If False, the other end can see a clean end of stream."""
    keeps_response: bool
    """Whether a client receives all data of a backend that has closed, even if the relay then resets the client."""
    ends_early: bool
    """Whether the relay can forward the client's end of stream before the client has received the whole response."""
    pace: float
    """The step `turns` waits `size` times for this number of seconds. In this time, other processes can run."""
    stalled: bool
    """Whether a `stall` step has stopped the SSH server from reading."""

    async def join(self, setup: Setup, changed: Callable[[], None], tap: Tap | None) -> Joined: ...

    def order(self, step: Step) -> bool:
        """Execute a step on the link, such as `kill`; return False if the state of the link forbids the step."""

    def refresh(self) -> None:
        """Process all pending reports of the native engine, if the relay uses the native engine."""

    async def restore(self, *, reconnect: bool) -> None:
        """Make the link ready for the next connection.

        Args:
            reconnect: Whether to replace the link, because it is lost or in an unknown state.

        Raises:
            AssertionError: The link is lost although `reconnect` is false.
        """

    def leftovers(self, relay: Relay) -> list[str]:
        """Describe each resource that was not released after the relay closed, such as an SSH channel."""
