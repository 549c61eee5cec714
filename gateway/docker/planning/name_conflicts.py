"""Finds names that one container or service can resolve to two different hosts.

The option `on_name_conflict` selects whether the gateway warns or refuses the attachment.
"""

from collections.abc import Collection, Iterable

from gateway.docker.desired_state import OWNER_ALIAS_PREFIX
from gateway.docker.name_resolution import NameResolvingContainer, names_after_attachment
from gateway.docker.plan import NameConflict
from gateway.docker.planning.endpoint_repair import is_ours
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.snapshot import Container, SwarmService

_MOST = 5
"""The maximum number of names in one message."""


def container_conflicts(builder: PlanBuilder, container: Container, network: str, aliases: Iterable[str]) -> str:
    """Add a container's name conflicts to the plan.

    Return the reason if the container must not be attached; otherwise an empty string.
    """
    own = container.id == builder.observed.own
    if own:
        _warn_of_hostnames(builder, network)
    who = NameResolvingContainer(container.id, container.name, _lower(() if own else aliases), container.hosts)
    found = builder.names.conflicts(
        who, network, builder.backend_names(network), _networks_to_compare(builder, container, network)
    )
    refused = _add(builder, list(found), refusable=not own)
    if refused or own or builder.options.on_name_conflict != "refuse" or network in container.endpoints:
        return refused
    return _conflicts_of_others(builder, container, network, aliases)


def _conflicts_of_others(builder: PlanBuilder, container: Container, network: str, aliases: Iterable[str]) -> str:
    """Return a message about the name conflicts that attaching a container would cause for other containers.

    Return an empty string if there are none. Only containers that the gateway attached, or that this plan attaches,
    count. Without this rule, the gateway would attach a container and then detach another one because of the name
    conflict. In the next round, it could do the reverse.
    """
    names = names_after_attachment(container, aliases)
    found: list[NameConflict] = []
    for other in builder.observed.containers:
        endpoint = other.endpoints.get(network)
        is_attached = endpoint is not None and is_ours(builder, other, network, endpoint)
        is_other = other.id not in (container.id, builder.observed.own)
        if is_other and (is_attached or (other.id, network) in builder.connecting):
            elsewhere = _networks_to_compare(builder, other, network)
            found += builder.names.caused_conflicts(container.id, names, other.name, network, elsewhere)
    if not found:
        return ""
    conflicts = "; ".join(f"for {each.container}, {each}" for each in found[:_MOST])
    return f"{conflicts}: rename one of them, or attach only one of {container.name} and {found[0].container}"


def report_foreign_endpoints(builder: PlanBuilder, container: Container, wanted: Collection[str]) -> None:
    """Report name conflicts on those of the gateway's networks to which no gateway attached the container.

    Args:
        builder: The plan so far.
        container: A container. Tasks of swarm services are skipped.
        wanted: The container's desired networks. They are skipped, because `container_conflicts` reports their
            conflicts.
    """
    for network, endpoint in container.endpoints.items():
        attached = any(each.startswith(OWNER_ALIAS_PREFIX) for each in endpoint.aliases or ())
        if network in builder.options.networks and network not in wanted and not (attached or container.is_task):
            who = NameResolvingContainer(container.id, container.name, hosts=container.hosts)
            found = builder.names.conflicts(
                who, network, builder.backend_names(network), _networks_to_compare(builder, container, network)
            )
            _add(builder, list(found), refusable=False)


def _warn_of_hostnames(builder: PlanBuilder, network: str) -> None:
    """Warn if a container on a network has the name of a backend as its host name."""
    taken = builder.backend_names(network)
    builder.warnings += [
        f"{each.name}: its host name is that of backend {each.hostname}, so clients on network {network} can reach"
        " the container instead of the backend: give the container another host name, or disconnect it from"
        " the network"
        for each in builder.observed.containers
        if each.hostname in taken and network in each.endpoints and each.id != builder.observed.own
    ]


def service_conflicts(builder: PlanBuilder, service: SwarmService, network: str, aliases: Iterable[str]) -> str:
    """Add a service's name conflicts to the plan.

    Return the reason if the service must not be attached; otherwise an empty string.
    """
    names = {each.id: each.name for each in builder.observed.networks}
    elsewhere = [names[each] for each in service.networks if each in names]
    who = NameResolvingContainer(service.id, f"service {service.name}", _lower(aliases))
    return _add(builder, list(builder.names.conflicts(who, network, builder.backend_names(network), elsewhere)))


def _networks_to_compare(builder: PlanBuilder, container: Container, network: str) -> list[str]:
    """Return the container's networks to compare with `network` for name conflicts.

    Of the gateway's networks, the result contains only those that precede `network` in alphabetical order, so that
    each conflict between two networks of the gateway is reported once.
    """
    return [each for each in container.endpoints if each not in builder.options.networks or each < network]


def _lower(aliases: Iterable[str]) -> frozenset[str]:
    return frozenset(each.lower() for each in aliases)


def _add(builder: PlanBuilder, found: list[NameConflict], *, refusable: bool = True) -> str:
    if not found:
        return ""
    builder.name_conflicts += found
    conflicts = "; ".join(map(str, found[:_MOST]))
    conflicts += f"; and {len(found) - _MOST} more names" if len(found) > _MOST else ""
    network = builder.desired.configured_name(found[0].network)
    remedy = f"rename one of them, or keep the backend off the network (docker.networks.{network}.backends)"
    refused = refusable and builder.options.on_name_conflict == "refuse"
    if not refused:
        builder.warnings.append(
            f"{found[0].container}: {conflicts}: it reaches only one of them by that name: {remedy}"
        )
    return f"{conflicts}: {remedy}" if refused else ""
