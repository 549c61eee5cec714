"""Defines the route of a backend: the uplinks (tunnels or direct links) and targets that its clients use."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.forwarding.aborted_handshake_budget import AbortedHandshakeBudget
from gateway.forwarding.target_path import LinkProvider, TargetPath


@dataclass(frozen=True)
class BackendRoute:
    """The uplinks and targets of a backend, the maximum wait of its clients, and the callbacks for failures.

    Args:
        uplinks: All uplinks that lead to the targets.
        paths: Returns the paths to dial for a new client, in the current order of preference.
        on_failure: Called with a path when a dial over it fails, or when its target resets a connection.
        hold: Maximum time, in seconds, that a client waits while no target can be reached.
        budget: Returns the handshake budget of a path; None if the server does not count aborted handshakes.
        on_stall: Called with a path when its target does not respond to a client in time.
        on_detour: Called with a failed path when a dial over another path to the same target succeeds.
    """

    uplinks: tuple[LinkProvider, ...]
    paths: Callable[[], list[TargetPath]]
    on_failure: Callable[[TargetPath], None]
    hold: float
    budget: Callable[[TargetPath], AbortedHandshakeBudget | None] = lambda _: None
    on_stall: Callable[[TargetPath], None] = lambda _: None
    on_detour: Callable[[TargetPath], None] = lambda _: None
