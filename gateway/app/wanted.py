"""What a configuration wants of Docker."""

import ipaddress

from gateway.backends.common.volume import VolumeSpec
from gateway.config import Config
from gateway.contracts import Endpoint
from gateway.docker.plan import Desired


def desired(config: Config, busy: frozenset[str] = frozenset()) -> Desired:
    """What a configuration wants of Docker.

    Args:
        config: With a section `docker`.
        busy: IDs of containers that have connections through us.
    """
    if config.docker is None:
        raise ValueError("the configuration has no section docker")
    reached = tuple(
        name
        for name, spec in config.backends.items()
        if any(isinstance(address, Endpoint) and not only_here(address) for address in spec.listen)
    )
    by_label = {name: spec.allow.label for name, spec in config.backends.items() if spec.allow.label is not None}
    return Desired(
        config.gateway.instance,
        config.docker,
        reached,
        busy,
        volumes(config),
        by_label=by_label,
        strict=config.gateway.strict,
        direct=direct(config),
    )


def direct(config: Config) -> tuple[str, ...]:
    """The IP addresses in the configuration that the gateway reaches from its host, and not through a tunnel."""
    endpoints = [each for spec in config.backends.values() if spec.via is None for each in spec.targets]
    tunnels = [getattr(spec.options, "endpoint", None) for spec in config.tunnels.values() if spec.via is None]
    endpoints += [each for each in tunnels if isinstance(each, Endpoint)]
    return tuple(dict.fromkeys(each.host for each in endpoints if _is_address(each.host)))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def volumes(config: Config) -> tuple[VolumeSpec, ...]:
    """The volumes that a configuration wants."""
    found = (spec.kind.volume(spec.options, spec.listen) for spec in config.backends.values())
    return tuple(volume for volume in found if volume is not None)


def only_here(address: Endpoint) -> bool:
    """Whether no other pod or container reaches a listener at this address."""
    return address.host in ("localhost", "::1") or address.host.startswith("127.")
