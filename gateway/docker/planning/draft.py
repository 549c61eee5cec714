"""A plan in the making: what its parts share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.docker import labels
from gateway.docker.grants import Granted, granted, owner
from gateway.docker.labels import Request
from gateway.docker.model import Container, NetworkInfo, Observed
from gateway.docker.names import Names
from gateway.docker.options import NetworkOptions
from gateway.docker.plan import Action, Condition, Desired, Shadow, Standing, carried
from gateway.docker.projects import network_of
from gateway.docker.trouble import Blocked
from gateway.text import one_line

_MOST_MISTAKES = 10
"""Lines about one container: its labels must not hide what is said of others."""


@dataclass(frozen=True)
class Holder:
    """Who has an alias on a network.

    Args:
        who: For messages.
        owner: Its Compose project or swarm service, or itself.
        listed: The aliases that the configuration gives it.
    """

    who: str
    owner: tuple[str, str]
    listed: frozenset[str] = frozenset()

    def shares(self, alias: str, other: "Holder") -> bool:
        """Return whether both may have the alias: in one project or service, or listed for both."""
        return self.owner == other.owner or (alias in self.listed and alias in other.listed)


class Draft:
    """What is wanted, what there is, and what has been found to do so far.

    Args:
        desired: What is wanted.
        observed: What there is.
        ours: Endpoints that the gateway made, by the container's ID and the network's name.
        been: Those of them that were seen, and that the gateway did not detach.
    """

    def __init__(
        self,
        desired: Desired,
        observed: Observed,
        ours: frozenset[tuple[str, str]],
        been: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.desired = desired
        self.observed = observed
        self.ours = ours
        self.been = been
        self.options = desired.options
        self.known: dict[str, NetworkInfo] = {}
        """Networks by name."""
        for network in observed.networks:
            self.known.setdefault(network.name, network)
        self.subnets = [*desired.direct, *(subnet for network in observed.networks for subnet in network.subnets)]
        """Taken ranges, including those of networks that are to be created."""
        self.creatable: dict[str, NetworkInfo] = {}
        """Networks that are missing and are to be created, without an ID yet."""
        self.without_range: dict[str, str] = {}
        """Networks that are missing and for which no range is free, with the remedy."""
        self.actions: list[Action] = []
        self.conditions: list[Condition] = []
        self.warnings: list[str] = []
        self.mistakes: list[str] = []
        """Those of the warnings that are about labels."""
        self.names = Names(desired, observed)
        self.shadows: list[Shadow] = []
        self.outdated: set[str] = set()
        """Networks of this gateway that were created with other options."""
        self._called: dict[str, dict[str, list[tuple[Container, bool]]]] = {}
        """See `called`: by network and name."""
        self.promised: dict[tuple[str, str], Holder] = {}
        """Who gets an alias on a network by this plan."""

    def driver(self, options: NetworkOptions) -> str:
        """Return the driver of a network with these options."""
        if options.driver != "auto":
            return options.driver
        # A bridge for each project needs no leader that knows the containers of all nodes; services need an overlay.
        overlay = self.observed.swarm.member and (options.per is None or self.options.services)
        return "overlay" if overlay else "bridge"

    def label(self, key: str) -> str:
        """Return one of the gateway's labels, with its prefix."""
        return f"{self.options.label_prefix}.{key}"

    def is_ours(self, found: Mapping[str, str]) -> bool:
        """Return whether this gateway created what has these labels."""
        return (
            found.get(self.label(labels.MANAGED_BY)) == "gateway"
            and found.get(self.label(labels.INSTANCE)) == self.desired.instance
        )

    def request(self, who: str, name: str | None, found: Mapping[str, str]) -> Request | None:
        """Return what a container or service asks for by its labels, or gets by grants or rules; None: nothing.

        Args:
            who: For messages.
            name: The container's name; None: it is a service.
            found: Its labels that count.
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
        self.mistaken(who, problems)
        instance = found.get(f"{prefix}.instance", self.desired.instance)
        if explicit or given is not None or strict or instance != self.desired.instance:
            return request  # its own labels and grants take precedence over rules
        return labels.by_rules(who, found, self.options.attach)

    def mistaken(self, who: str, problems: Iterable[str]) -> None:
        """Note what is wrong with the labels of a container or service."""
        lines = [one_line(f"{who}: {problem}") for problem in problems]
        if len(lines) > _MOST_MISTAKES:
            lines[_MOST_MISTAKES:] = [f"{who}: {len(lines) - _MOST_MISTAKES} more mistakes in its labels"]
        self.warnings += lines
        self.mistakes += lines

    def why(self, container: Container) -> str:
        """Return why a container is to be attached."""
        if container.labels.get(self.label("enable")) is not None and not self.desired.strict:
            return "it opted in"
        return "docker.grants" if granted(self.options.grants, container.name, container.labels) else "docker.attach"

    def _closed(self, given: Granted | None) -> frozenset[str]:
        """Return the configured networks that carry none of the granted backends."""
        backends = set(given.backends) if given is not None else set()
        return frozenset(name for name in self.desired.networks if not backends & set(carried(self.desired, name)))

    def by_configuration(self, name: str | None, found: Mapping[str, str]) -> frozenset[str]:
        """Return the aliases that the configuration gives a container or service, in lower case."""
        given = granted(self.options.grants, name, found)
        rule = None if given or self.desired.strict else labels.by_rules(name or "", found, self.options.attach)
        return frozenset(each.lower() for part in (given, rule) if part is not None for each in part.aliases)

    def holder(self, container: Container) -> Holder:
        """Return a container as the holder of an alias."""
        listed = self.by_configuration(container.name, container.labels)
        return Holder(f"container {container.name}", owner(container.id, container.labels), listed)

    def networks_of(self, request: Request, who: str, name: str, found: Mapping[str, str]) -> list[str]:
        """Return the networks that a request means.

        Args:
            request: Of a container or service.
            who: For messages.
            name: Its name.
            found: Its labels that count.
        """
        configured = self.desired.networks
        unknown = [each for each in request.networks if each not in configured]
        self.mistaken(who, [f"network {each!r} is not configured" for each in unknown])
        wanted = set(request.backends or self.desired.backends)
        meant = (
            [each for each in request.networks if each in configured]
            if request.networks
            else [each for each in configured if wanted & set(carried(self.desired, each))]
        )
        try:
            return [network_of(each, configured[each], name, found) for each in meant]
        except ValueError as error:
            self.warnings.append(f"{who}: {error}: it gets no network of its own")
            return []

    def own_names(self, network: str) -> tuple[str, ...]:
        """Return the gateway's own aliases on a network."""
        peers, there = self.options.peers, self.known.get(network)
        of_swarm = there.scope == "swarm" if there else self.driver(self.desired.network(network)) == "overlay"
        return carried(self.desired, network) + ((peers.name,) if peers is not None and of_swarm else ())

    def taken(self, network: str) -> set[str]:
        """Return the backends' names on a network, in lower case (RFC 4343)."""
        return {each.lower() for each in self.own_names(network)}

    def called(self, network: str, name: str) -> list[tuple[Container, bool]]:
        """Return the containers that answer to a name on a network, each with whether it is an alias.

        Args:
            network: The network's name.
            name: An alias, a name or a host name, in lower case.
        """
        if network not in self._called:
            found = self._called[network] = {}
            for each in self.observed.containers:
                if (endpoint := each.endpoints.get(network)) is not None:
                    for key in {each.name.lower(), each.hostname, *endpoint.names}:
                        found.setdefault(key, []).append((each, key in endpoint.names))
        return self._called[network].get(name, [])

    def report(
        self,
        who: str,
        who_id: str,
        network: str,
        state: Standing,
        reason: Blocked | None = None,
        message: str = "",
    ) -> None:
        """Note how an attachment of a container or service stands."""
        self.conditions.append(Condition(network, who, state, reason, message, who_id))

    def report_container(
        self, container: Container, network: str, state: Standing, reason: Blocked | None = None, message: str = ""
    ) -> None:
        """Note how an attachment of a container stands."""
        self.report(container.name, container.id, network, state, reason, message)
