"""Defines `PlanBuilder`, to which the planning modules add the actions, statuses and warnings of a plan."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.docker import labels
from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.desired_state import DesiredState, backends_on
from gateway.docker.grants import GrantedAccess, granted, owner
from gateway.docker.labels import RequestedAccess
from gateway.docker.name_resolution import DnsNameTable
from gateway.docker.options import NetworkOptions
from gateway.docker.per_project_network_names import network_of
from gateway.docker.plan import AttachmentState, DesiredAttachment, NameConflict, PlannedAction
from gateway.docker.snapshot import Container, EngineSnapshot, NetworkInfo
from gateway.text_sanitizer import one_line

_MAX_LABEL_ERRORS = 10
"""Maximum number of warnings about label errors of one container or service. One more warning contains the number of
further errors. The limit keeps warnings about other containers visible."""


@dataclass(frozen=True)
class EndpointWithAlias:
    """A container or service that holds an alias on a network.

    Args:
        who: The name of the container or service, for messages.
        owner: The type and name of the project or service that owns the alias; see `gateway.docker.grants.owner`.
        listed: The aliases that grants and rules assign to the container or service.
    """

    who: str
    owner: tuple[str, str]
    listed: frozenset[str] = frozenset()

    def shares(self, alias: str, other: "EndpointWithAlias") -> bool:
        """Return whether both endpoints can have the alias.

        Both can have it if they have the same owner, or if grants or rules assign the alias to both.
        """
        return self.owner == other.owner or (alias in self.listed and alias in other.listed)


class PlanBuilder:
    """Collects the actions, attachments and warnings of a plan.

    Args:
        desired: The desired state.
        observed: The observed state.
        ours: The endpoints that the gateway created, each as the container's ID and the network's name.
        seen: The endpoints in `ours` that have appeared in at least one snapshot, without those that the gateway has
            detached.
    """

    def __init__(
        self,
        desired: DesiredState,
        observed: EngineSnapshot,
        ours: frozenset[tuple[str, str]],
        seen: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.desired = desired
        self.observed = observed
        self.ours = ours
        self.seen = seen
        self.options = desired.options
        self.known: dict[str, NetworkInfo] = {}
        """The engine's networks, by name."""
        for network in observed.networks:
            self.known.setdefault(network.name, network)
        self.subnets = [*desired.direct, *(subnet for network in observed.networks for subnet in network.subnets)]
        """The subnets in use, including those of networks that this plan creates."""
        self.creatable: dict[str, NetworkInfo] = {}
        """The networks that this plan creates, by name. They have no ID yet."""
        self.no_free_range: dict[str, str] = {}
        """For each network that cannot be created because no subnet is free: a message."""
        self.actions: list[PlannedAction] = []
        self.attachments: list[DesiredAttachment] = []
        self.warnings: list[str] = []
        self.label_errors: list[str] = []
        """The warnings about labels."""
        self.names = DnsNameTable(desired, observed)
        self.name_conflicts: list[NameConflict] = []
        self.connecting: set[tuple[str, str]] = set()
        """The endpoints that this plan creates, each as the container's ID and the network's name."""
        self.outdated: set[str] = set()
        """Names of the gateway's own networks whose options differ from the configuration."""
        self._containers_named: dict[str, dict[str, list[tuple[Container, bool]]]] = {}
        """Caches the result of `containers_named` for each network and name."""
        self.reserved: dict[tuple[str, str], EndpointWithAlias] = {}
        """For each network and alias: the container or service for which this plan reserves the alias."""

    def driver(self, options: NetworkOptions) -> str:
        """Return the driver of a network that has the given options."""
        if options.driver != "auto":
            return options.driver
        # Only the gateway on the swarm's leader creates overlays. It can create per-project overlays for the services
        # of all nodes, but not for plain containers on other nodes, which it does not see. Therefore, per-project
        # networks are overlays only with `docker.services`. Otherwise, each node has its own bridge networks.
        overlay = self.observed.swarm.member and (options.per is None or self.options.services)
        return "overlay" if overlay else "bridge"

    def label(self, key: str) -> str:
        """Return the full name of one of the gateway's labels: `docker.label_prefix`, a dot, and `key`."""
        return f"{self.options.label_prefix}.{key}"

    def is_ours(self, found: Mapping[str, str]) -> bool:
        """Return whether this gateway created the network that has the labels `found`."""
        return (
            found.get(self.label(labels.MANAGED_BY)) == "gateway"
            and found.get(self.label(labels.INSTANCE)) == self.desired.instance
        )

    def request(self, who: str, name: str | None, found: Mapping[str, str]) -> RequestedAccess | None:
        """Return the networks, backends and aliases of a container or service, from its labels, grants and rules.

        Return None if neither a label nor a grant nor a rule gives it access.

        Args:
            who: The container or service, for messages.
            name: The container's name; None for a service.
            found: The labels that the gateway evaluates.
        """
        prefix, strict = self.options.label_prefix, self.desired.strict
        given = granted(self.options.grants, name, found)
        request, problems = labels.read(
            found, prefix, self.desired.instance, self.desired.backends, granted=given is not None
        )
        explicit = f"{prefix}.enable" in found
        if request is not None and strict:
            request, more = labels.only_granted(request, given, self._closed(given))
            problems += more
        elif request is not None and given is not None:
            request = labels.with_grants(request, given, explicit=explicit)
        self.report_label_errors(who, problems)
        instance = found.get(f"{prefix}.instance", self.desired.instance)
        if explicit or given is not None or strict or instance != self.desired.instance:
            return request  # labels and grants take precedence over the rules in `docker.attach`
        return labels.by_rules(who, found, self.options.attach)

    def report_label_errors(self, who: str, problems: Iterable[str]) -> None:
        """Add warnings about errors in the labels of a container or service."""
        lines = [one_line(f"{who}: {problem}") for problem in problems]
        if len(lines) > _MAX_LABEL_ERRORS:
            lines[_MAX_LABEL_ERRORS:] = [f"{who}: {len(lines) - _MAX_LABEL_ERRORS} more errors in its labels"]
        self.warnings += lines
        self.label_errors += lines

    def why(self, container: Container) -> str:
        """Return the label or the configuration key that makes the gateway attach a container."""
        if container.labels.get(self.label("enable")) is not None and not self.desired.strict:
            return f"label {self.label('enable')}"
        return "docker.grants" if granted(self.options.grants, container.name, container.labels) else "docker.attach"

    def _closed(self, given: GrantedAccess | None) -> frozenset[str]:
        backends = set(given.backends) if given is not None else set()
        return frozenset(
            name for name in self.desired.networks if not backends & set(backends_on(self.desired, name))
        )

    def configured_aliases(self, name: str | None, found: Mapping[str, str]) -> frozenset[str]:
        """Return the aliases that grants or rules assign to a container or service, in lower case."""
        given = granted(self.options.grants, name, found)
        rule = None if given or self.desired.strict else labels.by_rules(name or "", found, self.options.attach)
        return frozenset(each.lower() for part in (given, rule) if part is not None for each in part.aliases)

    def holder(self, container: Container) -> EndpointWithAlias:
        """Create the `EndpointWithAlias` of a container."""
        listed = self.configured_aliases(container.name, container.labels)
        return EndpointWithAlias(f"container {container.name}", owner(container.id, container.labels), listed)

    def networks_of(self, request: RequestedAccess, who: str, name: str, found: Mapping[str, str]) -> list[str]:
        """Return the networks that a request selects.

        Args:
            request: The request of a container or service.
            who: The container or service, for messages.
            name: The name of the container or service. With `per: project`, network names can contain this name.
            found: The labels that the gateway evaluates.
        """
        configured = self.desired.networks
        unknown = [each for each in request.networks if each not in configured]
        self.report_label_errors(who, [f"network {each!r} is not configured" for each in unknown])
        wanted = set(request.backends or self.desired.backends)
        meant = (
            [each for each in request.networks if each in configured]
            if request.networks
            else [each for each in configured if wanted & set(backends_on(self.desired, each))]
        )
        try:
            return [network_of(each, configured[each], name, found) for each in meant]
        except ValueError as error:
            self.warnings.append(f"{who}: {error}, so it is attached to no network")
            return []

    def gateway_aliases(self, network: str) -> tuple[str, ...]:
        """Return the desired aliases of the gateway's container on a network.

        These are the names of backends and, on a swarm network, the name in `docker.peers`.
        """
        peers, there = self.options.peers, self.known.get(network)
        of_swarm = there.scope == "swarm" if there else self.driver(self.desired.network(network)) == "overlay"
        return backends_on(self.desired, network) + ((peers.name,) if peers is not None and of_swarm else ())

    def backend_names(self, network: str) -> set[str]:
        """Return the aliases of the gateway's container on a network, in lower case (RFC 4343)."""
        return {each.lower() for each in self.gateway_aliases(network)}

    def containers_named(self, network: str, name: str) -> list[tuple[Container, bool]]:
        """Return the containers to which a name resolves on a network.

        Each item of the result is a container, and whether the name is an alias of this container.

        Args:
            network: The network's name.
            name: An alias, a container's name or a host name, in lower case.
        """
        if network not in self._containers_named:
            found = self._containers_named[network] = {}
            for each in self.observed.containers:
                if (endpoint := each.endpoints.get(network)) is not None:
                    for key in {each.name.lower(), each.hostname, *endpoint.names}:
                        found.setdefault(key, []).append((each, key in endpoint.names))
        return self._containers_named[network].get(name, [])

    def report(
        self,
        who: str,
        who_id: str,
        network: str,
        state: AttachmentState,
        reason: AttachmentObstacle | None = None,
        message: str = "",
    ) -> None:
        """Add the `DesiredAttachment` of a container or service to the plan."""
        self.attachments.append(DesiredAttachment(network, who, state, reason, message, who_id))

    def report_container(
        self,
        container: Container,
        network: str,
        state: AttachmentState,
        reason: AttachmentObstacle | None = None,
        message: str = "",
    ) -> None:
        """Add the `DesiredAttachment` of a container to the plan."""
        self.report(container.name, container.id, network, state, reason, message)
