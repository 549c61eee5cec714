"""What is wanted of Docker, and what a plan is made of. Pure: `gateway plan` shows what the service does."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gateway.backends.common.volume import VolumeSpec
from gateway.docker.dead import Dead, MountListener
from gateway.docker.model import Container, Observed
from gateway.docker.options import DockerOptions, NetworkOptions
from gateway.docker.projects import configured_as
from gateway.docker.trouble import Blocked
from gateway.docker.volumes import VolumeStanding

OWNER_ALIAS = "gw-owner-"
_NO_HOST_NAME = re.compile(r"[^a-z0-9-]")
_MARK_LENGTH = 50


class Verb(StrEnum):
    """What is done: a closed list, used in metrics."""

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


REVIVALS = (Verb.START, Verb.RESTART)
"""What makes a container run again."""


@dataclass(frozen=True)
class Action:
    """One change.

    Args:
        network: The name of the network or volume; empty: the action is about the container itself.
        network_id: Its ID, or its name where this engine does not see it yet.
        container: The name of the container or service; empty for a network.
        container_id: Its ID.
        aliases: For an attachment.
        why: In a few words.
        body: What the engine is sent, where it is more than that.
        version: Of a service that is changed.
    """

    verb: Verb
    network: str
    network_id: str = ""
    container: str = ""
    container_id: str = ""
    aliases: tuple[str, ...] = ()
    why: str = ""
    body: Mapping[str, Any] = field(default_factory=dict, compare=False)
    version: int = 0
    addresses: tuple[str, ...] = ()
    """Which an attachment is to have; of an address family without one, the engine chooses."""
    detaches: int = field(default=0, compare=False)
    """How many endpoints it detaches for good."""
    cause: str = ""
    """What a container that is started lacked."""

    @property
    def key(self) -> tuple[str, str]:
        """Which attachment, network, volume or container it is about."""
        return (self.subject.removeprefix("network "), self.container_id)

    @property
    def subject(self) -> str:
        """What it is about, as its type and name."""
        if self.verb in REVIVALS:
            return f"container {self.container}"
        kind = "volume" if self.verb in (Verb.CREATE_VOLUME, Verb.RECREATE_VOLUME) else "network"
        return f"{kind} {self.network}"


class Standing(StrEnum):
    """What an attachment is."""

    ATTACHED = "attached"
    PENDING = "pending"
    DRIFTED = "drifted"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Condition:
    """One attachment that is wanted.

    Args:
        reason: Why it is not simply attached.
        message: What to do about it.
    """

    network: str
    container: str
    state: Standing
    reason: Blocked | None = None
    message: str = ""
    container_id: str = ""


@dataclass(frozen=True)
class Desired:
    """What the configuration wants.

    Args:
        instance: This gateway's name.
        options: The configuration's section.
        backends: Those that clients may reach by name.
        busy: IDs of containers that have connections through the gateway.
        volumes: Those that are to be kept.
        serving: Whether any client has connections through the gateway.
        by_label: The label that each backend asks for which lets in containers by label.
        strict: Whether only grants say who may use what.
        configured: The configuration's networks, where `options` has those of projects in place of some of them.
        claimed: The gateway's own addresses by network, as they were last.
        refused: Those that the engine has refused, by network.
        direct: Addresses that the gateway reaches from its host: a network that is created must not hold them.
        mount_listeners: The listeners that are mounted.
        usable: The backends that serve clients now; None: not known.
        given_up: IDs of containers that were started too often without success.
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
    mount_listeners: tuple[MountListener, ...] = ()
    usable: frozenset[str] | None = None
    given_up: frozenset[str] = frozenset()

    @property
    def networks(self) -> Mapping[str, NetworkOptions]:
        """The networks by the names that the configuration, labels and rules use."""
        return self.configured or self.options.networks

    def called(self, name: str) -> str:
        """Return a network's name in the configuration; where it has none there, its own."""
        return configured_as(self.networks, name) or name

    def network(self, name: str) -> NetworkOptions:
        """Return the options of a network, by its own name or that in the configuration."""
        return self.networks[self.called(name)]

    @property
    def mark(self) -> str:
        """The alias of every endpoint that the gateway makes."""
        return OWNER_ALIAS + _NO_HOST_NAME.sub("-", self.instance.lower())[:_MARK_LENGTH]

    def is_gateway(self, container: Container) -> bool:
        """Return whether a container is a gateway of this name: it has the mark and a backend's name on a network."""
        backends = {each.lower() for each in self.backends}
        return any(
            self.mark in each.names and not backends.isdisjoint(each.names) for each in container.endpoints.values()
        )


@dataclass(frozen=True)
class Shadow:
    """A name with two meanings for one container.

    Args:
        container: The container or service that resolves it.
        network: The network of the gateway on which it has one meaning.
        name: The name.
        ours: What it means there.
        other: What else it means, and where.
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
    """Actions, states of attachments, and warnings."""

    actions: tuple[Action, ...] = ()
    conditions: tuple[Condition, ...] = ()
    warnings: tuple[str, ...] = ()
    postponed: int = 0
    """Endpoints that are to be detached, and may not be for now."""
    volumes: tuple[VolumeStanding, ...] = ()
    mistakes: frozenset[str] = frozenset()
    """Those of the warnings that are about labels."""
    shadows: tuple[Shadow, ...] = ()
    networks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The backends that are reached by name on each network that is kept."""
    exposures: tuple[str, ...] = ()
    """Warnings of containers that can pass for others; they change with every container that comes or goes."""
    dead: tuple[Dead, ...] = ()


def carried(desired: Desired, network: str) -> tuple[str, ...]:
    """Return the backends that are reached by name on a network."""
    wanted = desired.network(network).backends
    return tuple(name for name in desired.backends if not wanted or name in wanted)


def marked(desired: Desired, observed: Observed) -> set[tuple[str, str]]:
    """Return the endpoints that carry the gateway's mark, by the container's ID and the network's name."""
    return {
        (container.id, name)
        for container in observed.containers
        for name, endpoint in container.endpoints.items()
        if desired.mark in (endpoint.aliases or ())
    }
