"""Defines a plan: the actions that change an engine to the desired state, and the status of each attachment."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.container_last_start import ContainerLastStart
from gateway.docker.unavailable_containers import UnavailableContainer
from gateway.docker.volumes import VolumeStatus


class ActionKind(StrEnum):
    """The type of an action, such as creating a network. The values appear in metrics."""

    CREATE_NETWORK = "create_network"
    REMOVE_NETWORK = "remove_network"
    CONNECT = "connect"
    DISCONNECT = "disconnect"
    REATTACH = "reattach"
    UPDATE_SERVICE = "update_service"
    CREATE_VOLUME = "create_volume"
    RECREATE_VOLUME = "recreate_volume"
    START = "start"
    RESTART = "restart"


REVIVALS = (ActionKind.START, ActionKind.RESTART)
"""The kinds of actions that start or restart a container."""


@dataclass(frozen=True)
class PlannedAction:
    """One planned change on the engine, such as attaching a container to a network.

    Args:
        network: The name of the network or volume; empty if the action starts or restarts a container.
        network_id: The ID of the network; the network's name if the network does not exist yet. For a volume, the
            volume's name. Empty if the action creates a network, or starts or restarts a container.
        container: The name of the container or service; empty if the action changes only a network or a volume.
        container_id: The ID of the container or service.
        aliases: The endpoint's aliases.
        why: The reason, in a few words.
        body: The body of the request that creates a network or volume, or updates a service.
        version: The current version of the service's specification, if the action updates a service.
    """

    verb: ActionKind
    network: str
    network_id: str = ""
    container: str = ""
    container_id: str = ""
    aliases: tuple[str, ...] = ()
    why: str = ""
    body: Mapping[str, Any] = field(default_factory=dict, compare=False)
    version: int = 0
    addresses: tuple[str, ...] = ()
    """The addresses to request for the endpoint, at most one per IP version. If no address of an IP version is
    requested, the engine chooses one."""
    detaches: int = field(default=0, compare=False)
    """The number of endpoints that the action detaches and does not reattach."""
    cause: str = ""
    """Why the action starts or restarts a container, as a `StartFailureCause`; empty for other actions."""
    last_start: ContainerLastStart | None = field(default=None, compare=False)
    """The container's last start when the action was planned. If this value has changed when the action is due, the
    gateway skips the action."""
    owner_start: float = field(default=0.0, compare=False)
    """See `UnavailableContainer.owner_start`."""
    backend: str = field(default="", compare=False)
    """The backend whose volume was not mounted at the failed start; empty if the start failed for another reason."""

    @property
    def key(self) -> tuple[str, str]:
        """A key that identifies the attachment, network, volume or container that the action changes."""
        return (self.subject.removeprefix("network "), self.container_id)

    @property
    def subject(self) -> str:
        """The type and name of the network, volume or container that the action changes."""
        if self.verb in REVIVALS:
            return f"container {self.container}"
        kind = "volume" if self.verb in (ActionKind.CREATE_VOLUME, ActionKind.RECREATE_VOLUME) else "network"
        return f"{kind} {self.network}"


class AttachmentState(StrEnum):
    """The state of a container's attachment to a network."""

    ATTACHED = "attached"
    PENDING = "pending"
    DRIFTED = "drifted"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class DesiredAttachment:
    """The status of a desired attachment of a container or service to a network.

    Args:
        reason: Why the state is `blocked` or `drifted`; None for other states, or if no reason is known.
        message: Details, and what to do.
    """

    network: str
    container: str
    state: AttachmentState
    reason: AttachmentObstacle | None = None
    message: str = ""
    container_id: str = ""


@dataclass(frozen=True)
class NameConflict:
    """A name that, in one container, resolves to two different hosts.

    Args:
        container: The container or service that resolves the name.
        network: A network of the gateway.
        name: The name.
        ours: The host to which the name resolves on `network`.
        other: The other host, and the network or file in which the name resolves to it.
    """

    container: str
    network: str
    name: str
    ours: str
    other: str

    def __str__(self) -> str:
        return f"{self.name!r} is {self.ours} on network {self.network}, and {self.other}"


@dataclass(frozen=True)
class Plan:
    """The result of planning: the actions, the status of attachments and volumes, and warnings for the operator."""

    actions: tuple[PlannedAction, ...] = ()
    attachments: tuple[DesiredAttachment, ...] = ()
    warnings: tuple[str, ...] = ()
    postponed: int = 0
    """The number of endpoints that the gateway detaches later, because the limit `max_detaches` is reached."""
    volumes: tuple[VolumeStatus, ...] = ()
    label_errors: frozenset[str] = frozenset()
    """The items of `warnings` that are about labels."""
    name_conflicts: tuple[NameConflict, ...] = ()
    networks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each network of the gateway: the backends whose names resolve on the network."""
    exposures: tuple[str, ...] = ()
    """Warnings about containers that can spoof addresses. They are not part of `warnings`, because they change
    often."""
    unavailable: tuple[UnavailableContainer, ...] = ()
    namespaces: frozenset[str] = frozenset()
    """IDs of the containers whose network namespace other containers share; see `shared_namespaces`."""
    later_starts: Mapping[str, float] = field(default_factory=dict)
    """Start times of owners of network namespaces, if they seem to be in the future. The key is the ID of the
    container that joins the namespace; see `lost_network_namespaces.later_starts`."""

    def without(self, held: Collection[PlannedAction]) -> "Plan":
        """Return a copy of the plan without the postponed actions.

        Args:
            held: The postponed actions. The copy's `postponed` is the number of endpoints that they would detach.
        """
        actions = tuple(action for action in self.actions if action not in held)
        return replace(self, actions=actions, postponed=sum(action.detaches for action in held))
