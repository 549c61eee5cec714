"""Owns the uplinks, which keep tunnels open. Starts, replaces and stops them when the configuration changes."""

from collections.abc import Callable, Collection
from weakref import WeakKeyDictionary

from gateway.app.component_manager import ComponentManager
from gateway.app.tunnel_lanes import TunnelLane, backend_lanes, outer_lanes, required_lanes
from gateway.config import Config, TunnelSpec
from gateway.contracts.states import TunnelState
from gateway.relay.direct_link import DirectLinkFactory
from gateway.supervision.uplink import Uplink


class UplinkManager:
    """Owns the uplinks: one for each lane of each tunnel, and one for connections that use no tunnel.

    Args:
        components: Runs the uplinks.
    """

    def __init__(self, components: ComponentManager) -> None:
        self.direct = Uplink("direct", DirectLinkFactory(), quiet=True)
        self.by_lane: dict[TunnelLane, Uplink] = {}
        self.on_change: Callable[[str], None] = lambda _: None
        """Called with the name of a tunnel when the tunnel's state might have changed."""
        self._components = components
        self._config = Config()
        self._specs: WeakKeyDictionary[Uplink, TunnelSpec] = WeakKeyDictionary()
        components.start("tunnel direct", self.direct)

    def apply(self, config: Config, closed: Collection[str]) -> list[Uplink]:
        """Start the uplinks that a configuration requires and that do not run yet.

        Args:
            config: The new configuration.
            closed: The names of the removed tunnels, the changed tunnels, and the tunnels inside a changed tunnel.

        Returns:
            The old uplinks of the `closed` tunnels, and the uplinks that are no longer required. They still run. Pass
            them to `retire` as soon as new clients and inner tunnels use the new uplinks.
        """
        self._config = config
        required = required_lanes(config)
        obsolete = [lane for lane in self.by_lane if lane.tunnel in closed or lane not in required]
        retired = [self.by_lane.pop(lane) for lane in obsolete]
        for lane in required:
            if lane not in self.by_lane:
                self._open(lane, retired)
        return retired

    def _open(self, lane: TunnelLane, retired: list[Uplink]) -> None:
        spec = self._config.tunnels[lane.tunnel]
        closing = (*retired, *self._components.retiring_uplinks())
        same = [each for each in closing if _peer_identity(self._specs[each]) == _peer_identity(spec) is not None]
        after = self._components.stop_early(same) if same else None
        vias = [self.by_lane[outer] for outer in outer_lanes(self._config, lane)] or [self.direct]
        tunnel = spec.kind.create(spec.options)
        uplink = Uplink(spec.name, tunnel, vias, traffic_class=lane.traffic_class, after=after)
        uplink.watchers.append(lambda: self.on_change(spec.name))
        self.by_lane[lane] = uplink
        self._specs[uplink] = spec
        self._components.start(f"tunnel {spec.name}", uplink)

    def retire(self, retired: list[Uplink], drain: float, has_clients: Callable[[Uplink], bool]) -> None:
        """Stop each uplink as soon as no client and no other uplink uses it, at the latest after `drain` seconds.

        Args:
            retired: The result of `apply`.
            drain: Maximum time to wait, in seconds.
            has_clients: Returns whether clients use an uplink.
        """
        for uplink in retired:
            uplink.drain()
        self._components.retire_uplinks(retired, drain, lambda uplink: has_clients(uplink) or self._has_inner(uplink))

    def _has_inner(self, uplink: Uplink) -> bool:
        others = (*self.by_lane.values(), *self._components.retiring_uplinks())
        return any(uplink in each.vias and each.state is not TunnelState.STOPPED for each in others)

    def of_backend(self, name: str) -> dict[str | None, Uplink]:
        """Return a backend's uplinks, by tunnel name. The direct uplink has the key None."""
        lanes = backend_lanes(self._config, name)
        return {None: self.direct, **{tunnel: self.by_lane[lane] for tunnel, lane in lanes.items()}}

    def of_tunnel(self, name: str) -> list[Uplink]:
        """Return the uplinks of a tunnel, one for each lane."""
        return [uplink for lane, uplink in self.by_lane.items() if lane.tunnel == name]

    def draining(self) -> list[tuple[TunnelSpec, Uplink]]:
        """Return the draining uplinks of removed tunnels, each with its tunnel's configuration."""
        retiring = self._components.retiring_uplinks()
        return [(self._specs[each], each) for each in retiring if each.name not in self._config.tunnels]


def _peer_identity(spec: TunnelSpec) -> object:
    """Return the identity, such as a key, with which a tunnel connects to its server.

    Return None if servers permit several connections with the same identity.
    """
    kind = spec.kind
    return (kind.name, kind.identity(spec.options)) if kind.identity else None
