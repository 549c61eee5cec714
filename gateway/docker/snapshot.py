"""Defines `EngineSnapshot`, the observed state of an engine, and its parts: containers, networks and services."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gateway.docker.container_last_start import ContainerLastStart
from gateway.docker.engine_flavor import DOCKER, EngineFlavor
from gateway.docker.volumes import EngineVolume

TASK_LABEL = "com.docker.swarm.task.id"
RUNNING = {"running", "paused", "restarting"}
LIVE = {*RUNNING, "created"}
"""States in which the gateway attaches a container. The gateway does not attach a stopped container, because the
container could not start again if the network were removed."""


MTU, ENCRYPTED = "com.docker.network.driver.mtu", "encrypted"
"""Options of network drivers."""


@dataclass(frozen=True)
class NetworkEndpoint:
    """A container's endpoint on a network.

    Args:
        network_id: The network's ID.
        endpoint_id: The endpoint's ID, which changes with each attachment.
        addresses: The endpoint's IP addresses.
        aliases: The endpoint's aliases; None if they are not known.
    """

    network_id: str
    endpoint_id: str
    addresses: tuple[str, ...] = ()
    aliases: frozenset[str] | None = None

    @cached_property
    def names(self) -> frozenset[str]:
        """The aliases in lower case, because names are case-insensitive (RFC 4343); empty if `aliases` is None."""
        return frozenset(each.lower() for each in self.aliases or ())


@dataclass(frozen=True)
class Container:
    """A container of this engine.

    Args:
        endpoints: The container's endpoints, by the network's name.
        labels: The labels that the gateway evaluates; see `gateway.docker.image_labels`.
        network_mode: The configured network mode: `bridge`, `host`, `none`, `container:ID`, or a network.
        image_labels: The labels that the gateway ignores, because they come from the container's image.
        created: The time of the container's creation, in seconds since the epoch.
        can_spoof: Whether the container can spoof its source address; None if this is not known.
        hostname: The configured host name, in lower case; empty if there is none, or if it is not known. On each
            network, the host name resolves to the container, as the container's name does.
        hosts: The names in the container's hosts file, in lower case; empty if they are not known.
        given_names: Aliases that the engine adds on every network, in addition to the container's short ID.
        has_volumes: Whether the container mounts volumes.
        exit_success: Whether the container exited with code 0.
        last_start: The result of the most recent start; None if it is not known.
        is_locked: Whether the engine currently does not respond to requests about the container, for example because
            it is starting the container.
        problem: Why the engine cannot inspect the container; empty if it can.
    """

    id: str
    name: str
    state: str
    labels: Mapping[str, str]
    network_mode: str
    endpoints: Mapping[str, NetworkEndpoint]
    image_labels: Mapping[str, str] = field(default_factory=dict)
    created: int = 0
    can_spoof: bool | None = None
    hostname: str = ""
    hosts: frozenset[str] = frozenset()
    given_names: frozenset[str] = frozenset()
    has_volumes: bool = False
    exit_success: bool = False
    last_start: ContainerLastStart | None = None
    is_locked: bool = False
    problem: str = ""

    @property
    def joins(self) -> str:
        """The ID or name of the container whose network namespace this container joins; empty if there is none."""
        kind, _, other = self.network_mode.partition(":")
        return other if kind == "container" else ""

    @property
    def is_task(self) -> bool:
        """Whether the container is a task of a swarm service."""
        return TASK_LABEL in self.labels


@dataclass(frozen=True)
class NetworkInfo:
    """A Docker network, as this engine lists it.

    Args:
        options: The driver's options, as the engine reports them.
        ip_ranges: The parts of the subnets from which the engine assigns addresses; empty if it uses whole subnets.
        gateways: The addresses that containers on the network use as their default gateway.
    """

    id: str
    name: str
    driver: str
    scope: str
    attachable: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    subnets: tuple[str, ...] = ()
    internal: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    ip_ranges: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()


@dataclass(frozen=True)
class SwarmService:
    """A swarm service.

    Args:
        networks: For each network ID in `TaskTemplate.Networks`, the service's aliases on the network.
        spec: The complete specification. To update the service, the gateway sends a changed copy to the engine.
    """

    id: str
    name: str
    version: int
    labels: Mapping[str, str]
    networks: Mapping[str, frozenset[str]]
    spec: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class SwarmMembership:
    """Whether the engine is a member of a swarm, and in which role."""

    active: bool = False
    manager: bool = False
    leader: bool = False
    waiting: bool = False
    """Whether the engine is a swarm member without a connection to a manager, for example soon after its start."""

    @property
    def member(self) -> bool:
        """Whether the engine is a member of a swarm."""
        return self.active or self.waiting


@dataclass(frozen=True)
class EngineSnapshot:
    """The observed state of an engine at one time: containers, networks, services and volumes."""

    containers: tuple[Container, ...] = ()
    networks: tuple[NetworkInfo, ...] = ()
    services: tuple[SwarmService, ...] = ()
    volumes: tuple[EngineVolume, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    swarm: SwarmMembership = SwarmMembership()
    services_hidden: bool = False
    """Whether a proxy in front of the engine refuses to list the swarm's services."""
    own: str | None = None
    """The ID of the gateway's own container."""
    gateway_priority: bool = False
    """Whether the engine supports `GwPriority`. If not, attaching a container can change its default route."""
    flavor: EngineFlavor = DOCKER
    engine_time: float = 0.0
    """The engine's time at the end of the snapshot, in seconds since the epoch; 0 if it is not known."""
    starts_known: bool = True
    """Whether the `last_start` values are complete; see `with_last_starts`."""

    @property
    def own_container(self) -> Container | None:
        """The gateway's own container; None if the gateway does not run in a container of this engine."""
        return next((each for each in self.containers if each.id == self.own), None)

    def base(self, container: Container) -> Container | None:
        """Return the container that owns the network namespace of `container`. Usually, this is `container` itself.

        Return None if the owner was removed.
        """
        if not container.joins:
            return container
        found: Container | None = container
        by_key = {key: each for each in self.containers for key in (each.name, each.id)}
        for _ in self.containers:
            if found is None or not found.joins:
                break
            found = by_key.get(found.joins)
        return found
