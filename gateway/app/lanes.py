"""Which connections a process needs: a tunnel is opened once for queries and once for bulk. Pure.

A query that shares a connection with a bulk transfer waits behind it at both ends, whatever we do here: sshd serves
the channels of one connection in turn. So each sort of traffic has a lane of its own through every hop. A VPN must
not be open twice with the same key, so it has one lane for all.
"""

from collections.abc import Collection
from typing import NamedTuple

from gateway.config import Config
from gateway.contracts import TrafficClass


class Lane(NamedTuple):
    """One tunnel, for one sort of traffic."""

    tunnel: str
    bulk: bool


def through(config: Config, lane: Lane) -> Lane | None:
    """The lane that `lane` goes through; None: straight."""
    via = config.tunnels[lane.tunnel].via
    return _lane(config, via, bulk=lane.bulk) if via else None


def _lane(config: Config, tunnel: str, *, bulk: bool) -> Lane:
    return Lane(tunnel, bulk and not config.tunnels[tunnel].kind.single)


def has_single(config: Config, backend: str) -> bool:
    """Whether a backend goes through a tunnel that only one process may open."""
    return any(config.tunnels[name].kind.single for name in tunnels_of(config, [backend]))


def lane_of(config: Config, backend: str, *, apart: bool) -> Lane | None:
    """The lane of a backend's clients and checks; None: straight.

    Args:
        config: The configuration.
        backend: Its name.
        apart: Whether bulk has lanes of its own.
    """
    spec = config.backends[backend]
    return _lane(config, spec.via, bulk=spec.kind.traffic_class is TrafficClass.BULK and apart) if spec.via else None


def lanes(config: Config, own: Collection[str], *, apart: bool) -> list[Lane]:
    """Every lane that a process with these backends opens, outermost first.

    Tunnels that no backend uses at all are opened too: they were asked for, and their state is shown.
    """
    found = {lane for name in own if (lane := lane_of(config, name, apart=apart)) is not None}
    unused = config.tunnels.keys() - set(tunnels_of(config, config.backends))
    found |= {Lane(name, bulk=False) for name in unused}
    complete: set[Lane] = set()
    for lane in found:
        step: Lane | None = lane
        while step is not None and step not in complete:
            complete.add(step)
            step = through(config, step)
    return sorted(complete, key=lambda lane: (_depth(config, lane.tunnel), lane))


def tunnels_of(config: Config, backends: Collection[str]) -> list[str]:
    """The tunnels that these backends go through, in the configuration's order."""
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
