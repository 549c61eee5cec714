"""Describes containers that are unavailable because a dependency was missing."""

from dataclasses import dataclass
from enum import StrEnum

from gateway.docker.start_failure import StartFailureCause


class RevivalStatus(StrEnum):
    """Whether the gateway starts an unavailable container, and if not, why. The values appear in the status."""

    STARTING = "starting"
    WAITING = "waiting"
    OFF = "off"
    GIVEN_UP = "given_up"
    RECREATE = "recreate"


@dataclass(frozen=True)
class UnavailableContainer:
    """A container that does not run, or has no network, because a dependency was missing.

    Args:
        container: The container's name.
        container_id: The container's ID.
        cause: The missing dependency.
        detail: A description of the failure.
        state: Whether the gateway starts the container.
        message: Why the gateway does not start the container now; empty if the gateway starts it.
        command: The command that starts, restarts or recreates the container; empty if none is needed or known.
        is_excluded: Whether the container's label `gateway.revive` is false. Metrics do not count such a container.
        owner_start: When the owner of the shared network namespace last started, in seconds since the epoch. 0 if the
            cause is not a network namespace, if the owner does not run, or if the time is not known.
        backend: The backend whose volume was not mounted; empty if the cause is not a volume, or if the backend is
            not configured.
    """

    container: str
    container_id: str
    cause: StartFailureCause
    detail: str
    state: RevivalStatus
    message: str = ""
    command: str = ""
    is_excluded: bool = False
    owner_start: float = 0.0
    backend: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.detail, self.message, self.command)))
