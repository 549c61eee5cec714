"""The state of an engine: plain values, taken from its answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gateway.docker.flavour import DOCKER, Flavour
from gateway.docker.volumes import VolumeInfo

TASK_LABEL = "com.docker.swarm.task.id"
RUNNING = {"running", "paused", "restarting"}
LIVE = {*RUNNING, "created"}
"""States in which a container may be attached: a stopped one could not start if the network is removed."""

MTU, ENCRYPTED = "com.docker.network.driver.mtu", "encrypted"
"""Options of a network's driver."""


@dataclass(frozen=True)
class EndpointInfo:
    """A container's place on a network.

    Args:
        network_id: Which.
        endpoint_id: Changes with each attachment.
        addresses: Its IP addresses.
        aliases: None while they are not known.
    """

    network_id: str
    endpoint_id: str
    addresses: tuple[str, ...] = ()
    aliases: frozenset[str] | None = None

    @cached_property
    def names(self) -> frozenset[str]:
        """The aliases in lower case, since host names have no case (RFC 4343); empty while they are not known."""
        return frozenset(each.lower() for each in self.aliases or ())


@dataclass(frozen=True)
class LastStart:
    """What an inspection reports about a container's last start.

    Args:
        error: Why it failed (`State.Error`); empty: it succeeded, or a person or the engine has stopped the container
            since.
        restarts: Whether its restart policy is not `no`.
        at: When it last succeeded, in seconds since the epoch; 0: never.
    """

    error: str = ""
    restarts: bool = False
    at: float = 0.0


@dataclass(frozen=True)
class Container:
    """A container of this engine.

    Args:
        endpoints: By the network's name.
        labels: Those that count, see `gateway.docker.images`.
        network_mode: As it was created: `bridge`, `host`, `none`, `container:ID`, or a network.
        image_labels: Those that came with its image and do not count.
        created: When, in seconds since the epoch.
        can_spoof: Whether it can send from an address that is not its own; None: not known.
        hostname: The host name that it was given, in lower case, to which it answers on each network as to its name;
            empty: none, or not known.
        hosts: Names that it resolves by itself, in lower case; empty while they are not known.
        given_names: Aliases that the engine gives it by itself on every network, beside its short ID.
        has_volumes: Whether it mounts volumes.
        exit_success: Whether it ended with the exit code 0.
        last_start: None: not asked for.
    """

    id: str
    name: str
    state: str
    labels: Mapping[str, str]
    network_mode: str
    endpoints: Mapping[str, EndpointInfo]
    image_labels: Mapping[str, str] = field(default_factory=dict)
    created: int = 0
    can_spoof: bool | None = None
    hostname: str = ""
    hosts: frozenset[str] = frozenset()
    given_names: frozenset[str] = frozenset()
    has_volumes: bool = False
    exit_success: bool = False
    last_start: LastStart | None = None

    @property
    def joins(self) -> str:
        """The ID of the container whose network namespace it shares; empty: it has its own."""
        kind, _, other = self.network_mode.partition(":")
        return other if kind == "container" else ""

    @property
    def is_task(self) -> bool:
        """Whether a swarm service made it."""
        return TASK_LABEL in self.labels


@dataclass(frozen=True)
class NetworkInfo:
    """A network that this engine knows.

    Args:
        options: The driver's, as the engine reports them.
        ip_ranges: The parts of the subnets that the engine gives addresses from; absent: all of the subnet.
        gateways: Addresses of the engine's own.
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
class Service:
    """A swarm service.

    Args:
        networks: Aliases by network ID, of `TaskTemplate.Networks`.
        spec: The whole specification, to send back changed.
    """

    id: str
    name: str
    version: int
    labels: Mapping[str, str]
    networks: Mapping[str, frozenset[str]]
    spec: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Swarm:
    """What the engine is in a swarm."""

    active: bool = False
    manager: bool = False
    leader: bool = False
    waiting: bool = False
    """Whether it belongs to a swarm and has no contact with the managers, as after a start before theirs."""

    @property
    def member(self) -> bool:
        """Whether it belongs to a swarm."""
        return self.active or self.waiting


@dataclass(frozen=True)
class Observed:
    """Everything at one moment."""

    containers: tuple[Container, ...] = ()
    networks: tuple[NetworkInfo, ...] = ()
    services: tuple[Service, ...] = ()
    volumes: tuple[VolumeInfo, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    swarm: Swarm = Swarm()
    services_hidden: bool = False
    """Whether a proxy before the engine refuses to list the swarm's services."""
    own: str | None = None
    """The ID of the gateway's own container."""
    gateway_priority: bool = False
    """Whether the engine supports `GwPriority`, so that a network with a route out is not the default route."""
    flavour: Flavour = DOCKER

    @property
    def own_container(self) -> Container | None:
        """The gateway's own container; None: it is in none of this engine."""
        return next((each for each in self.containers if each.id == self.own), None)

    def base(self, container: Container) -> Container | None:
        """Return the container whose network a container uses: another one, or itself; None: that one is gone."""
        if not container.joins:
            return container
        found: Container | None = container
        by_key = {key: each for each in self.containers for key in (each.name, each.id)}
        for _ in self.containers:
            if found is None or not found.joins:
                break
            found = by_key.get(found.joins)
        return found
