"""How the clients of a backend reach its targets."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.contracts.values import Endpoint
from gateway.forwarding.handshake_budget import HandshakeBudget
from gateway.forwarding.routed_target import LinkSource


@dataclass(frozen=True)
class Route:
    """How the clients of a backend reach its targets.

    Args:
        uplink: The uplink that leads to the targets.
        targets: Returns the targets to try now, in order of preference.
        on_failure: Called with each target that cannot be dialed or that resets a connection.
        hold: Maximum seconds that a client waits while the uplink is down.
        budget: Returns the handshake budget of a target; None if its server does not count aborted handshakes.
        on_stall: Called with each target that has not answered a request within the time limit.
    """

    uplink: LinkSource
    targets: Callable[[], list[Endpoint]]
    on_failure: Callable[[Endpoint], None]
    hold: float
    budget: Callable[[Endpoint], HandshakeBudget | None] = lambda _: None
    on_stall: Callable[[Endpoint], None] = lambda _: None
