"""Chooses the lanes of each tunnel: separate connections for bulk traffic and for other traffic. Does no I/O.

If a query and a bulk transfer share an SSH connection, the query waits behind the data of the transfer. Therefore,
each traffic class has its own lane, with its own connections. A VPN has one lane for both classes, because two
connections of a VPN must not use the same key.
"""

from typing import NamedTuple

from gateway.config import Config
from gateway.contracts.states import TrafficClass


class TunnelLane(NamedTuple):
    """The connections of a tunnel for the traffic of one class."""

    tunnel: str
    traffic_class: TrafficClass


def outer_lanes(config: Config, lane: TunnelLane) -> list[TunnelLane]:
    """Return the lanes of the outer tunnels (`via`) inside which a lane can run, in order of preference.

    Return an empty list if the tunnel of `lane` has no `via`.
    """
    return [_lane(config, via, lane.traffic_class) for via in config.tunnels[lane.tunnel].via]


def _lane(config: Config, tunnel: str, traffic_class: TrafficClass) -> TunnelLane:
    return TunnelLane(tunnel, TrafficClass.INTERACTIVE if config.tunnels[tunnel].kind.single else traffic_class)


def backend_lanes(config: Config, backend: str) -> dict[str, TunnelLane]:
    """Return the lane that a backend uses in each of its tunnels; empty if the backend uses no tunnel.

    Clients and checks use the same lanes.
    """
    spec = config.backends[backend]
    return {name: _lane(config, name, spec.kind.traffic_class) for name in spec.tunnels}


def required_lanes(config: Config) -> list[TunnelLane]:
    """Return all lanes to open. Lanes of outer tunnels come before lanes of inner tunnels.

    Tunnels that no backend uses also have a lane, because the status shows the state of every tunnel.
    """
    found = {lane for name in config.backends for lane in backend_lanes(config, name).values()}
    found |= {TunnelLane(name, TrafficClass.INTERACTIVE) for name in config.tunnels.keys() - _used_tunnels(config)}
    complete: set[TunnelLane] = set()
    while found:
        complete |= found
        found = {outer for lane in found for outer in outer_lanes(config, lane)} - complete
    return sorted(
        complete,
        key=lambda lane: (_depth(config, lane.tunnel), lane.tunnel, lane.traffic_class is TrafficClass.BULK),
    )


def _used_tunnels(config: Config) -> set[str]:
    used: set[str] = set()
    found = {tunnel for spec in config.backends.values() for tunnel in spec.tunnels}
    while found:
        used |= found
        found = {outer for name in found for outer in config.tunnels[name].via} - used
    return used


def _depth(config: Config, tunnel: str) -> int:
    return max((1 + _depth(config, via) for via in config.tunnels[tunnel].via), default=0)
