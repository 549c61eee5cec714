"""Swarm services that opted in: their networks are in their specification."""

from collections.abc import Mapping
from typing import Any

from gateway.docker.errors import BlockedReason
from gateway.docker.grants import SWARM_SERVICE, owner
from gateway.docker.labels import Request
from gateway.docker.model import NetworkInfo, Service
from gateway.docker.plan import Action, Standing, Verb
from gateway.docker.planning.draft import Draft, Holder
from gateway.docker.planning.shadows import service_shadows


def update_services(draft: Draft) -> None:
    """Update each service whose networks differ; every manager reports them, and the leader acts."""
    if draft.observed.services_hidden:
        draft.warnings.append(
            "labelled services are not shown: the proxy before the engine refuses GET /services"
            " (configs/docker/socket-proxy-leader.yaml allows it)"
        )
    for service in draft.observed.services:
        networks, wanted = _attached(draft, service)
        if _acts(draft):
            for network_id, aliases in service.networks.items():
                if draft.desired.mark in aliases and network_id not in wanted:
                    del networks[network_id]
            _update(draft, service, networks)


def _acts(draft: Draft) -> bool:
    """Return whether this agent updates services."""
    return draft.options.services and draft.observed.swarm.leader


def networks_wanted(draft: Draft, service: Service) -> list[str]:
    """Return the networks that a service is to be on."""
    request, names = _wanted(draft, service)
    return [] if request is None or request.refused else names


def _wanted(draft: Draft, service: Service) -> tuple[Request | None, list[str]]:
    """Return what a service asks for or gets, and the networks that this means."""
    who, labels = f"service {service.name}", {**service.labels, SWARM_SERVICE: service.name}
    request = draft.request(who, None, labels)
    return request, [] if request is None else draft.networks_of(request, who, service.name, labels)


def _attached(draft: Draft, service: Service) -> tuple[dict[str, frozenset[str]], set[str]]:
    """Return its networks with their aliases, including those it asks for; and the IDs of all that it asks for."""
    mark, who = draft.desired.mark, f"service {service.name}"

    def report(name: str, state: Standing, reason: BlockedReason | None = None, message: str = "") -> None:
        draft.report(who, service.id, name, state, reason, message)

    request, names = _wanted(draft, service)
    networks = dict(service.networks)
    wanted: set[str] = set()
    if request is None:
        return networks, wanted
    for name in names:
        if request.refused:
            report(name, Standing.BLOCKED, BlockedReason.NOT_GRANTED, request.refused)
            continue
        there = draft.known.get(name)
        if name in draft.without_range:
            report(name, Standing.BLOCKED, BlockedReason.IP_EXHAUSTED, draft.without_range[name])
            continue
        if there is None:
            report(name, Standing.PENDING, None, f"network {name} does not exist yet")
            continue
        wanted.add(there.id)
        found = networks.get(there.id)
        hindrance = _hindrance(draft, service, there, request, found)
        if hindrance is not None:
            report(name, *hindrance)
            continue
        aliases = frozenset(request.aliases) | {mark}
        if found is None or (mark in found and found != aliases):
            networks[there.id] = aliases
            report(name, *_to_change(draft))
        elif aliases - {mark} <= found:
            report(name, Standing.ATTACHED)
        else:
            report(name, Standing.DRIFTED, None, "it was attached by other means, with other aliases")
    return networks, wanted


def _hindrance(
    draft: Draft, service: Service, there: NetworkInfo, request: Request, found: frozenset[str] | None
) -> tuple[Standing, BlockedReason, str] | None:
    """Return its state on a network where it cannot have what it asks for; None: it can."""
    if found is None and there.scope != "swarm":
        return Standing.BLOCKED, BlockedReason.LOCAL_NETWORK, _local(draft, there)
    if conflicts := service_shadows(draft, service, there.name, request.aliases):
        if found is None:
            return Standing.BLOCKED, BlockedReason.NAME_CONFLICT, conflicts
        return (
            Standing.DRIFTED,
            BlockedReason.NAME_CONFLICT,
            f"{conflicts}; it stays attached: its tasks would restart",
        )
    conflict = _conflict(draft, service, there.name, request, found or frozenset())
    return (Standing.BLOCKED, BlockedReason.ALIAS_CONFLICT, conflict) if conflict else None


def _local(draft: Draft, there: NetworkInfo) -> str:
    return (
        f"network {there.name} ({there.driver}) exists on one node only, and tasks run on any node: name an overlay"
        f" in the service's label {draft.label('network')}"
    )


def _to_change(draft: Draft) -> tuple[Standing, BlockedReason | None, str]:
    """Return the state of a network that the specification lacks."""
    if not draft.options.services:
        message = (
            "docker.services is false: set it to true, and the gateway adds the network; the service's tasks restart"
        )
        return Standing.BLOCKED, BlockedReason.SERVICES_OFF, message
    if not draft.observed.swarm.leader:
        return Standing.PENDING, None, "the agent on the swarm's leading manager adds the network"
    return Standing.PENDING, None, ""


def _conflict(draft: Draft, service: Service, name: str, request: Request, found: frozenset[str]) -> str:
    """Return why the service cannot have its aliases on a network; empty: it can, and they are reserved."""
    taken = [alias for alias in request.aliases if alias.lower() in draft.taken(name)]
    if taken:
        return f"{', '.join(taken)}: a backend has that name: choose another alias"
    new = [alias for alias in request.aliases if alias not in found]
    others = [f"{alias!r} is {held}'s" for alias in new if (held := _held(draft, service, name, alias))]
    if others:
        return f"{'; '.join(others)}: choose another alias, or list it for both in docker.grants"
    for alias in request.aliases:
        draft.promised.setdefault((name, alias.lower()), _holder(draft, service))
    return ""


def _held(draft: Draft, service: Service, name: str, alias: str) -> str | None:
    """Return who has or gets an alias on a network and does not share it; None: it is free."""
    holder, network, alias = _holder(draft, service), draft.known[name].id, alias.lower()
    holders = [
        _holder(draft, other)
        for other in draft.observed.services
        if alias in {each.lower() for each in other.networks.get(network, ())}
    ]
    holders += [draft.holder(container) for container, by_alias in draft.called(name, alias) if by_alias]
    promised = draft.promised.get((name, alias))
    holders += [promised] if promised is not None else []
    return next((other.who for other in holders if not other.shares(alias, holder)), None)


def _holder(draft: Draft, service: Service) -> Holder:
    labels = {SWARM_SERVICE: service.name}
    return Holder(f"service {service.name}", owner(service.id, labels), draft.by_configuration(None, labels))


def _update(draft: Draft, service: Service, networks: Mapping[str, frozenset[str]]) -> None:
    """Update the service if its networks differ."""
    changed = sorted(each for each in networks.keys() | service.networks.keys()
                     if networks.get(each) != service.networks.get(each))  # fmt: skip
    if changed:
        name = next((each.name for each in draft.observed.networks if each.id == changed[0]), changed[0])
        body = _with_networks(service.spec, networks, _kept(draft, service, networks))
        draft.actions.append(
            Action(
                Verb.UPDATE_SERVICE, name, changed[0], f"service {service.name}", service.id,
                why="its networks change", body=body, version=service.version,
                detaches=len(service.networks.keys() - networks.keys()),
            )
        )  # fmt: skip


def _kept(draft: Draft, service: Service, networks: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """Return the networks that keep a service's route out: without networks, it is each node's default bridge."""
    internal = {each.id for each in draft.observed.networks if each.internal}
    has_way_out = not service.networks or not service.networks.keys() <= internal
    return ("bridge",) if has_way_out and networks and networks.keys() <= internal else ()


def _with_networks(
    spec: Mapping[str, Any], networks: Mapping[str, frozenset[str]], kept: tuple[str, ...]
) -> dict[str, Any]:
    """Return the specification with these networks and those kept; unchanged ones stay as they are written."""
    template = dict(spec.get("TaskTemplate", {}))
    before = {each["Target"]: each for each in template.get("Networks") or []}
    template["Networks"] = [{"Target": each} for each in kept] + [
        before[target]
        if target in before and frozenset(before[target].get("Aliases") or ()) == aliases
        else {"Target": target, "Aliases": sorted(aliases)}
        for target, aliases in networks.items()
    ]
    return {**spec, "TaskTemplate": template}
