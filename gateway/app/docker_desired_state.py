"""Computes the desired state of Docker from a configuration."""

from gateway.backend_support.volume_definition import VolumeSpec
from gateway.config import Config
from gateway.contracts.config_types import HostPort
from gateway.docker.desired_state import DesiredState
from gateway.docker.volumes import VolumeMountAddress


def desired(config: Config, busy: frozenset[str] = frozenset()) -> DesiredState:
    """Return the desired state of Docker for a configuration.

    Args:
        config: A configuration with a section `docker`.
        busy: IDs of the containers with open connections through this gateway.

    Raises:
        ValueError: The configuration has no `docker` section.
    """
    if config.docker is None:
        raise ValueError("the configuration has no `docker` section")
    reached = tuple(
        name
        for name, spec in config.backends.items()
        if any(not address.is_unix and not is_loopback_only(address) for address in spec.listen)
    )
    by_label = {name: spec.allow.label for name, spec in config.backends.items() if spec.allow.label is not None}
    return DesiredState(
        config.gateway.instance,
        config.docker,
        reached,
        busy,
        volumes(config),
        by_label=by_label,
        strict=config.gateway.strict,
        direct=config.direct,
        mount_addresses=mount_addresses(config),
    )


def mount_addresses(config: Config) -> tuple[VolumeMountAddress, ...]:
    """Return the addresses to which the engine's host can connect to mount backends that are file systems."""
    found = []
    for name, spec in config.backends.items():
        if spec.kind.mount is None:
            continue
        volume = spec.kind.volume_options(spec.options)
        more = [volume.address] if volume is not None and volume.address is not None else []
        for each in spec.listen:
            if not each.is_unix:
                hosts = ["127.0.0.1", "::1"] if each.host == "localhost" else [each.host]
                found += [
                    VolumeMountAddress(
                        name, host, each.port, spec.kind.default_port, is_share=spec.kind.mount.has_share_devices
                    )
                    for host in (*hosts, *more)
                ]
    return tuple(found)


def volumes(config: Config) -> tuple[VolumeSpec, ...]:
    """Return the Docker volumes that the backends of a configuration require."""
    found = (spec.kind.volume(spec.options, spec.listen, spec.hold) for spec in config.backends.values())
    return tuple(volume for volume in found if volume is not None)


def is_loopback_only(address: HostPort) -> bool:
    """Return whether only processes in the same network namespace can connect to a listener at this address."""
    return address.host in ("localhost", "::1") or address.host.startswith("127.")
