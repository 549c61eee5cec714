"""Plans changes to the networks of swarm services. Each change is an update of a service's specification."""

from collections.abc import Mapping
from typing import Any

from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.grants import SWARM_SERVICE, owner
from gateway.docker.labels import RequestedAccess
from gateway.docker.plan import ActionKind, AttachmentState, PlannedAction
from gateway.docker.planning.name_conflicts import service_conflicts
from gateway.docker.planning.plan_builder import EndpointWithAlias, PlanBuilder
from gateway.docker.snapshot import NetworkInfo, SwarmService


def update_services(builder: PlanBuilder) -> None:
    """Plan updates of services whose networks differ from the desired ones, and report the status of services.

    Only the gateway on the swarm's leader plans updates, and only if `docker.services` is true.
    """
    if builder.observed.services_hidden:
        builder.warnings.append(
            "services with labels are not listed: the proxy in front of the engine refuses GET /services"
            " (configs/docker/socket-proxy-leader.yaml allows it)"
        )
    for service in builder.observed.services:
        networks, wanted = _attached(builder, service)
        if _acts(builder):
            for network_id, aliases in service.networks.items():
                if builder.desired.owner_alias in aliases and network_id not in wanted:
                    del networks[network_id]
            _update(builder, service, networks)


def _acts(builder: PlanBuilder) -> bool:
    return builder.options.services and builder.observed.swarm.leader


def service_networks(builder: PlanBuilder, service: SwarmService) -> list[str]:
    """Return the desired networks of a service; an empty list if `docker.grants` does not permit its request."""
    request, names = _wanted(builder, service)
    return [] if request is None or request.refused else names


def _wanted(builder: PlanBuilder, service: SwarmService) -> tuple[RequestedAccess | None, list[str]]:
    """Return the access that a service requests (None for no access), and the names of the requested networks."""
    who, labels = f"service {service.name}", {**service.labels, SWARM_SERVICE: service.name}
    request = builder.request(who, None, labels)
    return request, [] if request is None else builder.networks_of(request, who, service.name, labels)


def _attached(builder: PlanBuilder, service: SwarmService) -> tuple[dict[str, frozenset[str]], set[str]]:
    """Report the status of each network that a service requests.

    Returns:
        First, the service's aliases on its current and added networks, by network ID. Second, the IDs of the
            requested networks that exist. If `docker.grants` does not permit the request, the second value is empty.
    """
    mark, who = builder.desired.owner_alias, f"service {service.name}"

    def report(
        name: str, state: AttachmentState, reason: AttachmentObstacle | None = None, message: str = ""
    ) -> None:
        builder.report(who, service.id, name, state, reason, message)

    request, names = _wanted(builder, service)
    networks = dict(service.networks)
    wanted: set[str] = set()
    if request is None:
        return networks, wanted
    for name in names:
        if request.refused:
            report(name, AttachmentState.BLOCKED, AttachmentObstacle.NOT_GRANTED, request.refused)
            continue
        there = builder.known.get(name)
        if name in builder.no_free_range:
            report(name, AttachmentState.BLOCKED, AttachmentObstacle.IP_EXHAUSTED, builder.no_free_range[name])
            continue
        if there is None:
            report(name, AttachmentState.PENDING, None, f"network {name} does not exist yet")
            continue
        wanted.add(there.id)
        found = networks.get(there.id)
        blocked = _block_reason(builder, service, there, request, found)
        if blocked is not None:
            report(name, *blocked)
            continue
        aliases = frozenset(request.aliases) | {mark}
        if found is None or (mark in found and found != aliases):
            networks[there.id] = aliases
            report(name, *_to_change(builder))
        elif aliases - {mark} <= found:
            report(name, AttachmentState.ATTACHED)
        else:
            report(name, AttachmentState.DRIFTED, None, "it was not attached by the gateway, and has other aliases")
    return networks, wanted


def _block_reason(
    builder: PlanBuilder,
    service: SwarmService,
    there: NetworkInfo,
    request: RequestedAccess,
    found: frozenset[str] | None,
) -> tuple[AttachmentState, AttachmentObstacle, str] | None:
    """Return why the gateway must not attach a service to a requested network: the status, obstacle and message.

    Return None if nothing prevents the attachment.
    """
    if found is None and there.scope != "swarm":
        return AttachmentState.BLOCKED, AttachmentObstacle.LOCAL_NETWORK, _local(builder, there)
    if conflicts := service_conflicts(builder, service, there.name, request.aliases):
        if found is None:
            return AttachmentState.BLOCKED, AttachmentObstacle.NAME_CONFLICT, conflicts
        return (
            AttachmentState.DRIFTED,
            AttachmentObstacle.NAME_CONFLICT,
            f"{conflicts}; it stays attached, because a change would restart its tasks",
        )
    conflict = _conflict(builder, service, there.name, request, found or frozenset())
    return (AttachmentState.BLOCKED, AttachmentObstacle.ALIAS_CONFLICT, conflict) if conflict else None


def _local(builder: PlanBuilder, there: NetworkInfo) -> str:
    return (
        f"network {there.name} ({there.driver}) exists on one node only, and tasks run on any node: use an overlay"
        f" in the service's label {builder.label('network')}"
    )


def _to_change(builder: PlanBuilder) -> tuple[AttachmentState, AttachmentObstacle | None, str]:
    """Return the status for a requested network that the service lacks, or on which the service has other aliases."""
    if not builder.options.services:
        message = (
            "docker.services is false: set it to true, and the gateway adds the network, which restarts the tasks"
        )
        return AttachmentState.BLOCKED, AttachmentObstacle.SERVICES_OFF, message
    if not builder.observed.swarm.leader:
        return AttachmentState.PENDING, None, "the agent on the swarm's leader adds the network"
    return AttachmentState.PENDING, None, ""


def _conflict(
    builder: PlanBuilder, service: SwarmService, name: str, request: RequestedAccess, found: frozenset[str]
) -> str:
    """Reserve the service's aliases on a network. If an alias is taken, reserve nothing, and return a message."""
    taken = [alias for alias in request.aliases if alias.lower() in builder.backend_names(name)]
    if taken:
        return f"{', '.join(taken)}: a backend has that name: choose another alias"
    new = [alias for alias in request.aliases if alias not in found]
    others = [f"{alias!r} belongs to {held}" for alias in new if (held := _held(builder, service, name, alias))]
    if others:
        return f"{'; '.join(others)}: choose another alias, or permit this alias for both in docker.grants"
    for alias in request.aliases:
        builder.reserved.setdefault((name, alias.lower()), _holder(builder, service))
    return ""


def _held(builder: PlanBuilder, service: SwarmService, name: str, alias: str) -> str | None:
    """Return a container or service that has an alias and cannot share it with `service`; None if there is none."""
    holder, network, alias = _holder(builder, service), builder.known[name].id, alias.lower()
    holders = [
        _holder(builder, other)
        for other in builder.observed.services
        if alias in {each.lower() for each in other.networks.get(network, ())}
    ]
    holders += [
        builder.holder(container) for container, by_alias in builder.containers_named(name, alias) if by_alias
    ]
    reserved = builder.reserved.get((name, alias))
    holders += [reserved] if reserved is not None else []
    return next((other.who for other in holders if not other.shares(alias, holder)), None)


def _holder(builder: PlanBuilder, service: SwarmService) -> EndpointWithAlias:
    labels = {SWARM_SERVICE: service.name}
    return EndpointWithAlias(
        f"service {service.name}", owner(service.id, labels), builder.configured_aliases(None, labels)
    )


def _update(builder: PlanBuilder, service: SwarmService, networks: Mapping[str, frozenset[str]]) -> None:
    """Plan an update of the service if its networks differ from the desired networks."""
    changed = sorted(each for each in networks.keys() | service.networks.keys()
                     if networks.get(each) != service.networks.get(each))  # fmt: skip
    if changed:
        name = next((each.name for each in builder.observed.networks if each.id == changed[0]), changed[0])
        body = _with_networks(service.spec, networks, _kept(builder, service, networks))
        builder.actions.append(
            PlannedAction(
                ActionKind.UPDATE_SERVICE, name, changed[0], f"service {service.name}", service.id,
                why="its networks change", body=body, version=service.version,
                detaches=len(service.networks.keys() - networks.keys()),
            )
        )  # fmt: skip


def _kept(builder: PlanBuilder, service: SwarmService, networks: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """Return the networks that an update must add to keep a service's access to external networks.

    A service without networks uses the default bridge. If an update adds a network, the engine detaches the service
    from this bridge.
    """
    internal = {each.id for each in builder.observed.networks if each.internal}
    has_external_route = not service.networks or not service.networks.keys() <= internal
    return ("bridge",) if has_external_route and networks and networks.keys() <= internal else ()


def _with_networks(
    spec: Mapping[str, Any], networks: Mapping[str, frozenset[str]], kept: tuple[str, ...]
) -> dict[str, Any]:
    """Return a copy of a service's specification with only the networks in `networks` and `kept`."""
    template = dict(spec.get("TaskTemplate", {}))
    before = {each["Target"]: each for each in template.get("Networks") or []}
    template["Networks"] = [{"Target": each} for each in kept] + [
        before[target]
        if target in before and frozenset(before[target].get("Aliases") or ()) == aliases
        else {"Target": target, "Aliases": sorted(aliases)}
        for target, aliases in networks.items()
    ]
    return {**spec, "TaskTemplate": template}
