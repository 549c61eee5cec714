"""What a configuration wants of Docker."""

import ipaddress

from gateway.backends.common.volume import MountKind, VolumeOptions, VolumeSpec, mount_address
from gateway.config import Config
from gateway.contracts import Endpoint
from gateway.docker.dead import MountListener
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
        mount_listeners=mount_listeners(config),
    )


def mount_listeners(config: Config) -> tuple[MountListener, ...]:
    """Return the listeners that the engine's host may mount."""
    found = []
    for name, spec in config.backends.items():
        volume = getattr(spec.options, "volume", None) if spec.kind.mount is not None else None
        for address in spec.listen if spec.kind.mount is not None else ():
            if isinstance(address, Endpoint):
                host = mount_address(volume or VolumeOptions(""), address)
                found.append(MountListener(name, host, address.port))
    return tuple(found)


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
    return tuple(volume for volume, _ in mounts(config))


def mounts(config: Config) -> list[tuple[VolumeSpec, MountKind]]:
    """Return the volumes of a configuration, and how kernels mount them."""
    found = []
    for spec in config.backends.values():
        listener = next((address for address in spec.listen if isinstance(address, Endpoint)), None)
        volume = spec.kind.mount.build(spec.options, listener, spec.hold) if spec.kind.mount and listener else None
        if spec.kind.mount is not None and volume is not None:
            found.append((volume, spec.kind.mount))
    return found


def only_here(address: Endpoint) -> bool:
    """Whether no other pod or container reaches a listener at this address."""
    return address.host in ("localhost", "::1") or address.host.startswith("127.")
