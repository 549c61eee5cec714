"""Names that would get a second meaning for a container: warn, or do not attach it (`on_name_conflict`)."""

from collections.abc import Collection, Iterable

from gateway.docker.model import Container, Service
from gateway.docker.names import Asking
from gateway.docker.plan import OWNER_ALIAS, Shadow
from gateway.docker.planning.draft import Draft

_MOST = 5
"""Names in one message."""


def container_shadows(draft: Draft, container: Container, network: str, aliases: Iterable[str]) -> str:
    """Note the names of a container with two meanings, and return why it must not be attached; empty: it may."""
    own = container.id == draft.observed.own
    if own:
        _warn_of_hostnames(draft, network)
    who = Asking(container.id, container.name, _lower(() if own else aliases), container.hosts)
    found = draft.names.shadows(who, network, draft.taken(network), _elsewhere(draft, container, network))
    return _noted(draft, list(found), refusable=not own)


def joined_by_others(draft: Draft, container: Container, wanted: Collection[str]) -> None:
    """Note the names with two meanings for a container that joined networks of ours by itself.

    Args:
        draft: The plan in the making.
        container: Any.
        wanted: The networks that it is to be on, for which `container_shadows` does that.
    """
    for network, endpoint in container.endpoints.items():
        attached = any(each.startswith(OWNER_ALIAS) for each in endpoint.aliases or ())
        if network in draft.options.networks and network not in wanted and not (attached or container.is_task):
            who = Asking(container.id, container.name, hosts=container.hosts)
            found = draft.names.shadows(who, network, draft.taken(network), _elsewhere(draft, container, network))
            _noted(draft, list(found), refusable=False)


def _warn_of_hostnames(draft: Draft, network: str) -> None:
    """Warn of containers that the gateway did not attach, and that answer to a backend's name by their host name."""
    taken = draft.taken(network)
    draft.warnings += [
        f"{each.name}: its host name is that of backend {each.hostname}, so that clients on network {network} reach"
        " either: give it another host name, or take it off the network"
        for each in draft.observed.containers
        if each.hostname in taken and network in each.endpoints and each.id != draft.observed.own
    ]


def service_shadows(draft: Draft, service: Service, network: str, aliases: Iterable[str]) -> str:
    """As `container_shadows`, for a swarm service."""
    names = {each.id: each.name for each in draft.observed.networks}
    elsewhere = [names[each] for each in service.networks if each in names]
    who = Asking(service.id, f"service {service.name}", _lower(aliases))
    return _noted(draft, list(draft.names.shadows(who, network, draft.taken(network), elsewhere)))


def _elsewhere(draft: Draft, container: Container, network: str) -> list[str]:
    """Return its other networks; of two networks of the gateway, only one."""
    return [each for each in container.endpoints if each not in draft.options.networks or each < network]


def _lower(aliases: Iterable[str]) -> frozenset[str]:
    return frozenset(each.lower() for each in aliases)


def _noted(draft: Draft, found: list[Shadow], *, refusable: bool = True) -> str:
    if not found:
        return ""
    draft.shadows += found
    conflicts = "; ".join(map(str, found[:_MOST]))
    conflicts += f"; and {len(found) - _MOST} more names" if len(found) > _MOST else ""
    network = draft.desired.called(found[0].network)
    remedy = f"rename one of them, or keep the backend off the network (docker.networks.{network}.backends)"
    refused = refusable and draft.options.on_name_conflict == "refuse"
    if not refused:
        draft.warnings.append(
            f"{found[0].container}: {conflicts}: it reaches only one of them by that name: {remedy}"
        )
    return f"{conflicts}: {remedy}" if refused else ""
