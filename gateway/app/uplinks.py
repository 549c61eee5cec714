"""Opens, replaces and retires the uplinks of a process when the configuration changes."""

from collections.abc import Callable, Collection
from weakref import WeakKeyDictionary

from gateway.app.lanes import Lane, backend_lane, outer_lane, required_lanes
from gateway.app.units import Units
from gateway.config import Config, TunnelSpec
from gateway.contracts.states import TunnelState
from gateway.relay.direct_link import DirectTunnel
from gateway.supervision.uplink import Uplink


class Uplinks:
    """The uplinks of this process, one per lane, and the direct one.

    Args:
        units: Runs the uplinks.
        separate_bulk: Whether bulk traffic uses separate lanes.
    """

    def __init__(self, units: Units, *, separate_bulk: bool) -> None:
        self.direct = Uplink("direct", DirectTunnel(), None, quiet=True)
        self.by_lane: dict[Lane, Uplink] = {}
        self._units = units
        self._separate_bulk = separate_bulk
        self._config = Config()
        self._specs: WeakKeyDictionary[Uplink, TunnelSpec] = WeakKeyDictionary()
        units.start("tunnel direct", self.direct)

    def apply(self, config: Config, backends: Collection[str], closed: Collection[str]) -> list[Uplink]:
        """Open the uplinks that are missing.

        Args:
            config: The new configuration.
            backends: The names of the backends that this process serves or checks.
            closed: The names of the tunnels to close.

        Returns:
            The uplinks that are replaced or no longer required. Pass them to `retire` after clients and inner
            uplinks use the new ones.
        """
        self._config = config
        required = required_lanes(config, backends, separate_bulk=self._separate_bulk)
        obsolete = [lane for lane in self.by_lane if lane.tunnel in closed or lane not in required]
        retired = [self.by_lane.pop(lane) for lane in obsolete]
        for lane in required:
            if lane not in self.by_lane:
                self._open(lane, retired)
        return retired

    def _open(self, lane: Lane, retired: list[Uplink]) -> None:
        spec = self._config.tunnels[lane.tunnel]
        closing = (*retired, *self._units.retiring_uplinks())
        same = [each for each in closing if _peer_identity(self._specs[each]) == _peer_identity(spec) is not None]
        after = self._units.stop_early(same) if same else None
        outer = outer_lane(self._config, lane)
        via = self.by_lane[outer] if outer else self.direct
        traffic = "bulk" if lane.bulk else ""
        uplink = Uplink(spec.name, spec.kind.create(spec.options), via, traffic=traffic, after=after)
        self.by_lane[lane] = uplink
        self._specs[uplink] = spec
        self._units.start(f"tunnel {spec.name}", uplink)

    def retire(self, retired: list[Uplink], drain: float, has_clients: Callable[[Uplink], bool]) -> None:
        """Close each uplink when neither clients nor other uplinks use it, or after `drain` seconds.

        Args:
            retired: The result of `apply`.
            drain: Seconds.
            has_clients: Returns whether clients use an uplink.
        """
        for uplink in retired:
            uplink.drain()
        self._units.retire_uplinks(retired, drain, lambda uplink: has_clients(uplink) or self._has_inner(uplink))

    def _has_inner(self, uplink: Uplink) -> bool:
        others = (*self.by_lane.values(), *self._units.retiring_uplinks())
        return any(each.via is uplink and each.state is not TunnelState.STOPPED for each in others)

    def of_backend(self, name: str) -> Uplink:
        """Return the uplink that leads to the targets of a backend."""
        lane = backend_lane(self._config, name, separate_bulk=self._separate_bulk)
        return self.by_lane[lane] if lane else self.direct

    def of_tunnel(self, name: str) -> list[Uplink]:
        """Return the uplinks of a tunnel, one per lane."""
        return [uplink for lane, uplink in self.by_lane.items() if lane.tunnel == name]

    def draining(self) -> list[tuple[TunnelSpec, Uplink]]:
        """Return the uplinks of removed tunnels that still drain."""
        retiring = self._units.retiring_uplinks()
        return [(self._specs[each], each) for each in retiring if each.name not in self._config.tunnels]


def _peer_identity(spec: TunnelSpec) -> object:
    """Return the identity that only one open tunnel is allowed to use; None if the tunnel has no such identity."""
    kind = spec.kind
    return (kind.name, kind.identity(spec.options)) if kind.identity else None
