"""Defines dead containers: those that do not run, or have no network, because a dependency was missing."""

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from gateway.docker.failed_starts import StartFailureCause


class DeadContainerState(StrEnum):
    """Whether the gateway starts a dead container. The values appear in the status."""

    STARTING = "starting"
    WAITING = "waiting"
    OFF = "off"
    GIVEN_UP = "given_up"
    RECREATE = "recreate"


@dataclass(frozen=True)
class DeadContainer:
    """A container that does not run, or has no network, because a dependency was missing.

    Args:
        container: The container's name.
        container_id: The container's ID.
        cause: The missing dependency.
        detail: A description of the failure.
        state: Whether the gateway starts the container.
        message: Why the gateway does not start the container now; empty if the gateway starts it.
        command: The command that starts the container again; empty if no command is needed or known.
        is_excluded: Whether the container's label `revive` is false. Metrics do not count such a container.
        owner_start: If the container uses another container's network, the last start of that container, in seconds
            since the epoch; 0 for another cause, or if the time is not known.
        backend: The backend of the volume that was not mounted; empty for another cause.
    """

    container: str
    container_id: str
    cause: StartFailureCause
    detail: str
    state: DeadContainerState
    message: str = ""
    command: str = ""
    is_excluded: bool = False
    owner_start: float = 0.0
    backend: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.detail, self.message, self.command)))


@dataclass(frozen=True)
class VolumeMountAddress:
    """An address at which the engine's host mounts the volumes of a backend, through a listener of the backend.

    Args:
        backend: The name of the backend.
        host: The listener's IP address, which can be a wildcard, or the `volume.address` of the backend.
        port: The listener's port.
    """

    backend: str
    host: str
    port: int

    def is_at(self, address: str, port: int, bridges: Collection[str] = ()) -> bool:
        """Return whether a mount with these options connects to this address.

        Args:
            address: The mount option `addr`.
            port: The mount option `port`.
            bridges: The addresses of the engine's host on its bridge networks.
        """
        if port != self.port:
            return False
        found, host = _parsed(address), _parsed(self.host)
        if found is not None and host is not None and host.is_unspecified:
            return found.version == host.version and (found.is_loopback or found in map(_parsed, bridges))
        return (found or address) == (host or self.host)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None
