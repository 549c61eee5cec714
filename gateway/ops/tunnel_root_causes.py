"""Finds the failed tunnels that explain the state of a tunnel or backend. Does no I/O."""

import itertools
from collections.abc import Iterable, Mapping
from enum import Enum, auto

from gateway.contracts.states import HealthState
from gateway.errors import FailureReason
from gateway.ops.severity import OPEN_STATES
from gateway.ops.status_views import BackendView, TunnelView


class TunnelFailureEffect(Enum):
    """How a failed tunnel affects a backend: blocked, degraded or rerouted."""

    BLOCKED = auto()
    DEGRADED = auto()
    REROUTED = auto()
    """The backend is neither blocked nor degraded by tunnels, because another tunnel is open."""


def path_tunnels(backend: BackendView) -> list[str]:
    """Return the names of the tunnels through which the targets of a backend can be reached."""
    return [path.tunnel for path in backend.paths]


def with_outer_tunnels(tunnels: Mapping[str, TunnelView], names: Iterable[str]) -> list[TunnelView]:
    """Return the tunnels with the given names, and all outer tunnels inside which they can run, outermost first.

    Args:
        tunnels: All tunnels by name.
        names: The names of the tunnels to return. Unknown names are skipped.
    """
    found: dict[str, TunnelView] = {}
    for name in names:
        if name in tunnels:
            found |= {each.name: each for each in with_outer_tunnels(tunnels, tunnels[name].via)}
            found[name] = tunnels[name]
    return list(found.values())


def root_cause_tunnels(tunnels: Mapping[str, TunnelView], name: str) -> list[TunnelView]:
    """Return the tunnels that cause a tunnel to be down.

    - If the tunnel is open or unknown, the list is empty.
    - If the tunnel has outer tunnels, and all of them are down, the list contains the tunnels that cause the outer
      tunnels to be down.
    - Otherwise, the list contains only the tunnel itself.

    Args:
        tunnels: All tunnels by name.
        name: The tunnel.
    """
    tunnel = tunnels.get(name)
    if tunnel is None or tunnel.state in OPEN_STATES:
        return []
    outer = [root_cause_tunnels(tunnels, via) for via in tunnel.via]
    return list(itertools.chain.from_iterable(outer)) if outer and all(outer) else [tunnel]


def effect_of_tunnels(
    tunnels: Mapping[str, TunnelView], backend: BackendView
) -> tuple[TunnelFailureEffect, list[str]]:
    """Return the effect of failed tunnels on a backend, and the names of these tunnels.

    If the list of names is empty, the effect has no meaning: no failed tunnel explains the state of the backend.
    """
    failed = [root_cause_tunnels(tunnels, name) for name in path_tunnels(backend)]
    roots = list({each.name: None for tunnels_of_path in failed for each in tunnels_of_path})
    if backend.state is HealthState.BLOCKED:
        return TunnelFailureEffect.BLOCKED, roots
    if backend.state is HealthState.DEGRADED and backend.reason == FailureReason.TUNNEL:
        return TunnelFailureEffect.DEGRADED, roots
    return TunnelFailureEffect.REROUTED, [] if all(failed) else roots
