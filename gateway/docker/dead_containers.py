"""Defines dead containers: those that do not run, or have no network, because a dependency was missing."""

import ipaddress
from dataclasses import dataclass
from enum import StrEnum

from gateway.docker.failed_starts import StartFailureCause


class DeadContainerState(StrEnum):
    """The decision whether the gateway starts a dead container. The status uses this fixed set of values."""

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
        cause: What was missing.
        detail: What happened.
        state: Whether the gateway starts the container.
        message: Why the gateway does not start the container now; empty if the gateway starts it.
        command: The command that starts the container again; empty if no command is needed or known.
        is_excluded: Whether the container's label `revive` is false. Metrics do not count such a container.
        owner_start: The last start of the other container whose network the container uses, in seconds since the
            epoch; 0 for another cause, or if the time is not known.
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

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.detail, self.message, self.command)))


@dataclass(frozen=True)
class MountListener:
    """A listener that the engine's host mounts.

    Args:
        backend: The name of the listener's backend.
        host: The listener's IP address, or the `volume.address` of the backend.
        port: The listener's port.
    """

    backend: str
    host: str
    port: int

    def is_at(self, address: str, port: int) -> bool:
        """Return whether a mount with the options `addr` and `port` connects to this listener."""
        return port == self.port and (address == self.host or (_is_loopback(address) and _is_loopback(self.host)))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
