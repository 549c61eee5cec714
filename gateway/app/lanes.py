"""Decides which lanes a process opens: a tunnel is opened once for each traffic class. Does no I/O.

If a query and a bulk transfer share an SSH connection, the query waits at both ends of the connection, because sshd
serves the channels of a connection in turn. Therefore each traffic class has its own lane through every tunnel. Two
connections to a VPN
must not use the same key, so a VPN has one lane for both classes.
"""

from collections.abc import Collection
from typing import NamedTuple

from gateway.config import Config
from gateway.contracts.states import TrafficClass


class Lane(NamedTuple):
    """A tunnel that is opened for one traffic class."""

    tunnel: str
    bulk: bool


def outer_lane(config: Config, lane: Lane) -> Lane | None:
    """Return the lane that `lane` runs inside; None if it uses the direct link."""
    via = config.tunnels[lane.tunnel].via
    return _lane(config, via, bulk=lane.bulk) if via else None


def _lane(config: Config, tunnel: str, *, bulk: bool) -> Lane:
    return Lane(tunnel, bulk and not config.tunnels[tunnel].kind.single)


def uses_single_tunnel(config: Config, backend: str) -> bool:
    """Return whether the path to a backend includes a tunnel that only one process is allowed to open."""
    return any(config.tunnels[name].kind.single for name in required_tunnels(config, [backend]))


def backend_lane(config: Config, backend: str, *, separate_bulk: bool) -> Lane | None:
    """Return the lane of a backend's clients and checks; None if they use the direct link.

    Args:
        config: The configuration.
        backend: The name of the backend.
        separate_bulk: Whether bulk traffic uses separate lanes.
    """
    spec = config.backends[backend]
    if spec.via is None:
        return None
    return _lane(config, spec.via, bulk=separate_bulk and spec.kind.traffic_class is TrafficClass.BULK)


def required_lanes(config: Config, backends: Collection[str], *, separate_bulk: bool) -> list[Lane]:
    """Return the lanes that a process with these backends opens, outermost first.

    The result includes the tunnels that no backend uses, because the status also shows their state.

    Args:
        config: The configuration.
        backends: The names of the process's backends.
        separate_bulk: Whether bulk traffic uses separate lanes.
    """
    found = {
        lane for name in backends if (lane := backend_lane(config, name, separate_bulk=separate_bulk)) is not None
    }
    unused = config.tunnels.keys() - set(required_tunnels(config, config.backends))
    found |= {Lane(name, bulk=False) for name in unused}
    complete: set[Lane] = set()
    for lane in found:
        step: Lane | None = lane
        while step is not None and step not in complete:
            complete.add(step)
            step = outer_lane(config, step)
    return sorted(complete, key=lambda lane: (_depth(config, lane.tunnel), lane))


def required_tunnels(config: Config, backends: Collection[str]) -> list[str]:
    """Return the tunnels on the paths to these backends, in the order of the configuration."""
    needed: set[str] = set()
    for name in backends:
        via = config.backends[name].via
        while via is not None and via not in needed:
            needed.add(via)
            via = config.tunnels[via].via
    return [name for name in config.tunnels if name in needed]


def _depth(config: Config, tunnel: str) -> int:
    via = config.tunnels[tunnel].via
    return 0 if via is None else 1 + _depth(config, via)
