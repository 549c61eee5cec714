"""Finds the addresses that a gateway dials without a tunnel."""

from collections.abc import Iterable

from gateway.config.model import Config, TunnelSpec
from gateway.contracts.values import Endpoint
from gateway.errors import GatewayError
from gateway.relay.resolver import is_address


def direct_addresses(config: Config) -> tuple[str, ...]:
    """Return the IP addresses of targets and tunnel servers that the gateway dials directly. Can block."""
    endpoints = [each for spec in config.backends.values() if spec.via is None for each in spec.targets]
    for spec in config.tunnels.values():
        if spec.via is None:
            endpoints += _servers(spec)
    return tuple(dict.fromkeys(each.host for each in endpoints if is_address(each.host)))


def _servers(spec: TunnelSpec) -> Iterable[Endpoint]:
    try:
        return [*spec.kind.servers(spec.options), *spec.kind.udp_servers(spec.options)]
    except GatewayError:  # the same error is reported when the tunnel is opened
        return ()
