"""Defines the desired state of an engine, and the plan: the actions that change the engine to this state."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gateway.backend_support.volume import VolumeSpec
from gateway.docker.dead_containers import DeadContainer
from gateway.docker.errors import AttachBlocker
from gateway.docker.options import DockerOptions, NetworkOptions
from gateway.docker.project_network_names import configured_as
from gateway.docker.snapshot import Container, EngineSnapshot, LastStart
from gateway.docker.start_errors import StartReason
from gateway.docker.volumes import VolumeMountAddress, VolumeStatus

OWNER_ALIAS_PREFIX = "gw-owner-"
_NO_HOST_NAME = re.compile(r"[^a-z0-9-]")
_MARK_LENGTH = 50


class ActionKind(StrEnum):
    """The type of an action, such as creating a network. The values appear as a label of metrics."""

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
"""The actions that start containers."""


@dataclass(frozen=True)
class PlannedAction:
    """One planned change on the engine, such as to attach a container to a network.

    Args:
        network: The name of the network or volume; empty if the action starts or restarts a container.
        network_id: The ID of the network or volume; the name if the object has no ID yet.
        container: The name of the container or service; empty for a network.
        container_id: The ID of the container or service.
        aliases: The endpoint's aliases.
        why: The reason, in a few words.
        body: The body of the request that creates or updates an object.
        version: The version of the service's specification that the action updates.
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
    """The addresses to request for the endpoint, at most one per IP version. The engine chooses any other address."""
    detaches: int = field(default=0, compare=False)
    """The number of endpoints that the action detaches and does not reattach."""
    cause: str = ""
    """Why the action starts or restarts a container, as a `StartFailureCause`; empty for other actions."""
    last_start: LastStart | None = field(default=None, compare=False)
    """The container's last start in the snapshot. The gateway skips the action if the container has started since."""
    owner_start: float = field(default=0.0, compare=False)
    """The last start of the owner of the container's network namespace; see `DeadContainer.owner_start`."""
    backend: str = field(default="", compare=False)
    """The backend whose volume was not mounted at the failed start; empty for another cause."""

    @property
    def key(self) -> tuple[str, str]:
        """A key that identifies the attachment, network, volume or container that the action changes."""
        return (self.subject.removeprefix("network "), self.container_id)

    @property
    def subject(self) -> str:
        """The type and name of the object that the action changes."""
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
class AttachmentStatus:
    """The status of a desired attachment of a container or service to a network.

    Args:
        reason: Why the attachment is blocked or has drifted; None if no reason is known.
        message: Details, and what to do.
    """

    network: str
    container: str
    state: AttachmentState
    reason: AttachBlocker | None = None
    message: str = ""
    container_id: str = ""


@dataclass(frozen=True)
class DesiredState:
    """The desired networks, attachments and volumes of an engine, from the configuration.

    Args:
        instance: This gateway's name.
        options: The configuration.
        backends: The backends that clients can reach by name.
        busy: IDs of containers that have connections through the gateway.
        volumes: The configured volumes.
        serving: Whether any client has connections through the gateway.
        by_label: The label by which each backend admits containers, by the name of the backend.
        strict: Whether only `docker.grants` admit containers, so that labels have no effect (`gateway.strict`).
        configured: The original networks, if `expand_projects` has replaced networks in `options` with the networks
            of projects; otherwise empty.
        claimed: The gateway's previous addresses, by network.
        refused: The addresses that the engine refused, by network.
        direct: Addresses that the gateway connects to without a tunnel. The subnet of a new network must not contain
            them.
        mount_addresses: The addresses at which the engine's host mounts volumes.
        usable: The backends that serve clients now; None in commands that run without the service.
        given_up: The containers that are not started again after too many failed starts; see `StartAttempts`.
        restarted: Containers that need no restart, each with the last start of the owner of their network namespace;
            see `StartAttempts.restarted` and `Plan.later_starts`.
        interrupted: The starts that the gateway requested without a response of the engine, by container ID.
        namespaces: `Plan.namespaces` of the previous plan.
        signals: The signals that other clients sent to each container, see `StartAttempts`.
    """

    instance: str
    options: DockerOptions
    backends: tuple[str, ...]
    busy: frozenset[str] = frozenset()
    volumes: tuple[VolumeSpec, ...] = ()
    serving: bool = False
    by_label: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    configured: Mapping[str, NetworkOptions] = field(default_factory=dict)
    claimed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: Mapping[str, frozenset[str]] = field(default_factory=dict)
    direct: tuple[str, ...] = ()
    mount_addresses: tuple[VolumeMountAddress, ...] = ()
    usable: frozenset[str] | None = None
    given_up: frozenset[tuple[str, float]] = frozenset()
    restarted: frozenset[tuple[str, float]] = frozenset()
    interrupted: Mapping[str, StartReason] = field(default_factory=dict)
    namespaces: frozenset[str] = frozenset()
    signals: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def networks(self) -> Mapping[str, NetworkOptions]:
        """The networks by their configured names, which labels and rules use."""
        return self.configured or self.options.networks

    def configured_name(self, name: str) -> str:
        """Return the name under which a network is configured, or `name` if the network is not configured."""
        return configured_as(self.networks, name) or name

    def network(self, name: str) -> NetworkOptions:
        """Return the options of the network whose actual or configured name is `name`."""
        return self.networks[self.configured_name(name)]

    @property
    def owner_alias(self) -> str:
        """The alias that marks every endpoint that the gateway creates."""
        return OWNER_ALIAS_PREFIX + _NO_HOST_NAME.sub("-", self.instance.lower())[:_MARK_LENGTH]

    def is_gateway(self, container: Container) -> bool:
        """Return whether a container is the gateway: it has this gateway's owner alias and the name of a backend."""
        backends = {each.lower() for each in self.backends}
        return any(
            self.owner_alias in each.names and not backends.isdisjoint(each.names)
            for each in container.endpoints.values()
        )


@dataclass(frozen=True)
class NameConflict:
    """A name that, in one container, resolves to two different hosts.

    Args:
        container: The container or service that resolves the name.
        network: The network of the gateway.
        name: The name.
        ours: The host on that network.
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
    attachments: tuple[AttachmentStatus, ...] = ()
    warnings: tuple[str, ...] = ()
    postponed: int = 0
    """The number of endpoints that the gateway detaches later, because the limit `max_detaches` is reached."""
    volumes: tuple[VolumeStatus, ...] = ()
    label_errors: frozenset[str] = frozenset()
    """The items of `warnings` that are about labels."""
    name_conflicts: tuple[NameConflict, ...] = ()
    networks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The backends that are reached by name on each managed network."""
    exposures: tuple[str, ...] = ()
    """Warnings about containers that can spoof addresses. Not in `warnings`, because they change often."""
    dead: tuple[DeadContainer, ...] = ()
    namespaces: frozenset[str] = frozenset()
    """The result of `gateway.docker.planning.lost_namespaces.shared_namespaces`."""
    later_starts: Mapping[str, float] = field(default_factory=dict)
    """The result of `gateway.docker.planning.lost_namespaces.later_starts`."""


def backends_on(desired: DesiredState, network: str) -> tuple[str, ...]:
    """Return the backends that are reached by name on a network."""
    wanted = desired.network(network).backends
    return tuple(name for name in desired.backends if not wanted or name in wanted)


def marked_endpoints(desired: DesiredState, observed: EngineSnapshot) -> set[tuple[str, str]]:
    """Return the endpoints with the alias `owner_alias`, each as the container's ID and the network's name."""
    return {
        (container.id, name)
        for container in observed.containers
        for name, endpoint in container.endpoints.items()
        if desired.owner_alias in (endpoint.aliases or ())
    }
