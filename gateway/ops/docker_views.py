"""Defines the views of the Docker engine, such as the view of a volume.

Times are seconds since the epoch.
"""

from dataclasses import dataclass, field

ATTACHMENT_STATES = ("attached", "pending", "drifted", "blocked")
UNAVAILABLE_CAUSES = ("volume", "network", "namespace")


@dataclass(frozen=True)
class AttachmentView:
    """The attachment of one container to a Docker network of the gateway, and the attachment's state."""

    network: str
    container: str
    state: str
    reason: str | None
    message: str


@dataclass(frozen=True)
class VolumeView:
    """A Docker volume that the configuration defines, and its state."""

    name: str
    state: str
    message: str
    options: dict[str, str] = field(hash=False)


@dataclass(frozen=True)
class PlannedChangeView:
    """A change that the gateway plans to make in Docker."""

    action: str
    network: str
    container: str
    aliases: list[str]
    why: str


@dataclass(frozen=True)
class NameConflictView:
    """A host name that is ambiguous in a container, because the name has different addresses on two networks."""

    container: str
    network: str
    name: str
    ours: str
    other: str


@dataclass(frozen=True)
class UnavailableContainerView:
    """A container that does not run or has no network, because a volume, network or network namespace was missing."""

    container: str
    cause: str
    detail: str
    state: str
    message: str
    command: str
    is_excluded: bool


@dataclass(frozen=True)
class ConsumerContainerView:
    """A container that is allowed to use backends, with its ID and labels."""

    id: str
    labels: dict[str, str] = field(hash=False)


@dataclass(frozen=True)
class SwarmPeerView:
    """The gateway agent on another node of a Docker swarm, with its latest report about one Docker network."""

    network: str
    address: str
    instance: str | None
    containers: int
    trouble: str | None


@dataclass(frozen=True)
class DockerView:
    """The view of the Docker engine: attachments, volumes, containers, and planned changes."""

    problem: str | None
    observed_at: float | None
    leader: bool
    container: str | None
    attachments: list[AttachmentView]
    volumes: list[VolumeView]
    actions: list[PlannedChangeView]
    warnings: list[str]
    postponed: int
    writes: dict[str, int]
    errors: dict[tuple[str, str], int]
    consumers: dict[str, ConsumerContainerView]
    name_conflicts: list[NameConflictView] = field(default_factory=list)
    peers: list[SwarmPeerView] = field(default_factory=list)
    unavailable: list[UnavailableContainerView] = field(default_factory=list)
    revived: dict[str, int] = field(default_factory=dict)
    """For each of `UNAVAILABLE_CAUSES`, the number of unavailable containers that the gateway has started again."""
