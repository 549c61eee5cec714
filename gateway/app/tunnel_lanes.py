"""Decides in which lanes a process opens each tunnel: one lane for each traffic class. Does no I/O.

If a query and a bulk transfer share an SSH connection, the query waits at both ends of the connection, because sshd
serves the channels of a connection in turn. Therefore each traffic class has its own lane in every tunnel. Two
connections to a VPN must not use the same key, so a VPN has one lane for both classes.
"""

from collections.abc import Collection
from typing import NamedTuple

from gateway.config import Config
from gateway.contracts.states import TrafficClass


class TunnelLane(NamedTuple):
    """A lane: a tunnel that is opened for one traffic class. Each lane has its own connection."""

    tunnel: str
    bulk: bool


def outer_lanes(config: Config, lane: TunnelLane) -> list[TunnelLane]:
    """Return the lanes inside which `lane` can run, in order of preference; empty if it uses the direct link."""
    return [_lane(config, via, bulk=lane.bulk) for via in config.tunnels[lane.tunnel].via]


def _lane(config: Config, tunnel: str, *, bulk: bool) -> TunnelLane:
    return TunnelLane(tunnel, bulk and not config.tunnels[tunnel].kind.single)


def uses_single_tunnel(config: Config, backend: str) -> bool:
    """Return whether the path to a backend includes a tunnel that only one process is allowed to open."""
    return any(config.tunnels[name].kind.single for name in required_tunnels(config, [backend]))


def backend_lanes(config: Config, backend: str, *, separate_bulk: bool) -> dict[str, TunnelLane]:
    """Return the lanes of a backend's clients and checks, by tunnel; empty if they use the direct link.

    Args:
        config: The configuration.
        backend: The name of the backend.
        separate_bulk: Whether bulk traffic uses separate lanes.
    """
    spec = config.backends[backend]
    bulk = separate_bulk and spec.kind.traffic_class is TrafficClass.BULK
    return {name: _lane(config, name, bulk=bulk) for name in spec.tunnels}


def required_lanes(config: Config, backends: Collection[str], *, separate_bulk: bool) -> list[TunnelLane]:
    """Return the lanes that a process with these backends opens, outermost first.

    The result includes the tunnels that no backend uses, because the status shows their state too.

    Args:
        config: The configuration.
        backends: The names of the process's backends.
        separate_bulk: Whether bulk traffic uses separate lanes.
    """
    found = {lane for name in backends for lane in backend_lanes(config, name, separate_bulk=separate_bulk).values()}
    unused = config.tunnels.keys() - set(required_tunnels(config, config.backends))
    found |= {TunnelLane(name, bulk=False) for name in unused}
    complete: set[TunnelLane] = set()
    while found:
        complete |= found
        found = {outer for lane in found for outer in outer_lanes(config, lane)} - complete
    return sorted(complete, key=lambda lane: (_depth(config, lane.tunnel), lane))


def required_tunnels(config: Config, backends: Collection[str]) -> list[str]:
    """Return the tunnels on the paths to these backends, in the order of the configuration."""
    needed: set[str] = set()
    found = {tunnel for name in backends for tunnel in config.backends[name].tunnels}
    while found:
        needed |= found
        found = {outer for name in found for outer in config.tunnels[name].via} - needed
    return [name for name in config.tunnels if name in needed]


def _depth(config: Config, tunnel: str) -> int:
    return max((1 + _depth(config, via) for via in config.tunnels[tunnel].via), default=0)
