"""Defines the desired state of an engine: the networks, attachments and volumes that the configuration requires."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.backend_support.volume_definition import VolumeSpec
from gateway.docker.options import DockerOptions, NetworkOptions
from gateway.docker.per_project_network_names import configured_as
from gateway.docker.snapshot import Container, EngineSnapshot
from gateway.docker.start_failure import ContainerRevival
from gateway.docker.volumes import VolumeMountAddress

OWNER_ALIAS_PREFIX = "gw-owner-"
_NO_HOST_NAME = re.compile(r"[^a-z0-9-]")
_MARK_LENGTH = 50


@dataclass(frozen=True)
class DesiredState:
    """The desired networks, attachments and volumes of an engine, from the configuration.

    Args:
        instance: This gateway's name.
        options: The section `docker` of the configuration.
        backends: The backends that containers can reach: those with a TCP listener that is not on a loopback address.
        busy: IDs of containers that have connections through the gateway.
        volumes: The configured volumes.
        serving: Whether any client has connections through the gateway.
        by_label: Maps the name of each backend with `allow.label` to the name of this label.
        strict: `gateway.strict`: whether only rules in `docker.grants` admit containers, and labels do not.
        configured: The networks as configured, if `expand_projects` has replaced networks in `options` with
            per-project networks; otherwise empty.
        claimed: For each network, the gateway's previous addresses.
        refused: For each network, the addresses that the engine refused to assign to the gateway.
        direct: Addresses that the gateway connects to without a tunnel. The subnet of a new network must not contain
            them.
        mount_addresses: The addresses that the engine's host connects to when it mounts volumes.
        usable: The backends that serve clients now; None in commands that run without the service.
        given_up: The containers that the gateway no longer starts; see `StartAttempts.given_up`.
        restarted: Pairs of a container's ID and a start time. If the owner of the container's network namespace
            started at this time, the container needs no restart; see `StartAttempts.restarted` and
            `Plan.later_starts`.
        interrupted: The starts that the gateway requested, and to which the engine has not responded. Maps each
            container's ID to the reason for the start.
        namespaces: IDs of the containers whose network namespace other containers shared when the previous plan was
            made; see `Plan.namespaces`.
        signals: The signals that other clients of the engine sent to each container; see `StartAttempts.signals`.
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
    interrupted: Mapping[str, ContainerRevival] = field(default_factory=dict)
    namespaces: frozenset[str] = frozenset()
    signals: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def networks(self) -> Mapping[str, NetworkOptions]:
        """Maps the configured name of each network to the network's options.

        Labels and the rules in `docker.attach` refer to networks by the configured names.
        """
        return self.configured or self.options.networks

    def configured_name(self, name: str) -> str:
        """Return the name under which a network is configured, or `name` if the network is not configured."""
        return configured_as(self.networks, name) or name

    def network(self, name: str) -> NetworkOptions:
        """Return the options of the network whose actual or configured name is `name`."""
        return self.networks[self.configured_name(name)]

    @property
    def owner_alias(self) -> str:
        """A network alias that marks every endpoint that the gateway creates."""
        return OWNER_ALIAS_PREFIX + _NO_HOST_NAME.sub("-", self.instance.lower())[:_MARK_LENGTH]

    def is_gateway(self, container: Container) -> bool:
        """Return whether a container is a gateway with the instance name `instance`.

        Such a container has both `owner_alias` and the name of a backend as aliases on the same network.
        """
        backends = {each.lower() for each in self.backends}
        return any(
            self.owner_alias in each.names and not backends.isdisjoint(each.names)
            for each in container.endpoints.values()
        )


def backends_on(desired: DesiredState, network: str) -> tuple[str, ...]:
    """Return the backends whose names resolve on a network."""
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
