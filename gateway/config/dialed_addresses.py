"""Lists the targets and tunnel servers that the gateway dials. Can block, because it reads VPN configurations."""

from gateway.config.model import Config, TunnelSpec
from gateway.contracts.config_types import HostPort
from gateway.errors import GatewayError
from gateway.relay.resolver import is_address


def direct_addresses(config: Config) -> tuple[str, ...]:
    """Return the IP addresses of targets and tunnel servers that the gateway dials without a tunnel.

    Omit each target and server whose host is a name instead of an IP address.
    """
    endpoints = [each for spec in config.backends.values() for each in spec.targets if not spec.paths(each)]
    for spec in config.tunnels.values():
        if not spec.via:
            endpoints += _servers(spec, udp=True)
    return tuple(dict.fromkeys(each.host for each in endpoints if is_address(each.host)))


def servers_behind_several(config: Config) -> dict[str, tuple[HostPort, ...]]:
    """Return the server addresses of each tunnel that has several tunnels in `via`, by tunnel name."""
    return {name: tuple(_servers(spec)) for name, spec in config.tunnels.items() if len(spec.via) > 1}


def _servers(spec: TunnelSpec, *, udp: bool = False) -> list[HostPort]:
    try:
        return [*spec.kind.servers(spec.options), *(spec.kind.udp_servers(spec.options) if udp else ())]
    except GatewayError:  # an unreadable or wrong file: the gateway reports it when it opens the tunnel
        return []
