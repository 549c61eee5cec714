"""Defines the route of a backend: the uplinks and targets that its clients use."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.forwarding.handshake_budget import HandshakeBudget
from gateway.forwarding.routed_target import LinkSource, RoutedTarget


@dataclass(frozen=True)
class Route:
    """The uplinks, targets and time limits of one backend, and the callbacks for failed dials.

    Args:
        uplinks: All uplinks that lead to the targets.
        routes: Returns the paths to dial for a new client, in the current order of preference.
        on_failure: Called with a path each time its target cannot be dialed or resets a connection.
        hold: Maximum time, in seconds, that a client waits while no target can be reached.
        budget: Returns the handshake budget of a path, or None if the server does not count aborted handshakes.
        on_stall: Called with a path each time its target does not respond to a request within the time limit.
        on_detour: Called with a path each time a dial fails over it, and then succeeds over another path to the
            same target.
    """

    uplinks: tuple[LinkSource, ...]
    routes: Callable[[], list[RoutedTarget]]
    on_failure: Callable[[RoutedTarget], None]
    hold: float
    budget: Callable[[RoutedTarget], HandshakeBudget | None] = lambda _: None
    on_stall: Callable[[RoutedTarget], None] = lambda _: None
    on_detour: Callable[[RoutedTarget], None] = lambda _: None
