"""Plans which containers to attach, reattach and detach."""

from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.plan import ActionKind, AttachmentState, PlannedAction
from gateway.docker.planning.aliases import age, conflicting_holder, remedy, reserve
from gateway.docker.planning.attachability import block_reason
from gateway.docker.planning.desired_networks import desired_networks, desired_networks_without_report
from gateway.docker.planning.endpoint_repair import is_ours, reconcile_endpoint, refuse
from gateway.docker.planning.gateway_container import own_addresses
from gateway.docker.planning.gateway_swarm_task import gateway_swarm_task_state
from gateway.docker.planning.name_conflicts import container_conflicts, report_foreign_endpoints
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.planning.shared_network_namespace_status import report_shared_namespace
from gateway.docker.snapshot import LIVE, RUNNING, Container


def attach(builder: PlanBuilder) -> None:
    """Plan the attachment of each container to its desired networks.

    If several containers request the same alias, the oldest one gets it.
    """
    for container in sorted(builder.observed.containers, key=age):
        networks = desired_networks(builder, container)
        report_foreign_endpoints(builder, container, networks)
        for name, aliases in networks.items():
            if container.joins:
                base = builder.observed.base(container)
                coming = base is not None and name in desired_networks_without_report(builder, base)
                report_shared_namespace(builder, container, name, aliases, coming=coming)
            else:
                _attachment(builder, container, name, aliases)


def detach(builder: PlanBuilder) -> None:
    """Plan to detach containers from networks that they no longer request.

    Endpoints that the gateway did not create remain.
    """
    for container in builder.observed.containers:
        for name, endpoint in container.endpoints.items():
            if (
                is_ours(builder, container, name, endpoint)
                and name not in desired_networks_without_report(builder, container)
                and not _is_duplicate_gateway(builder, container)
            ):
                builder.actions.append(
                    PlannedAction(
                        ActionKind.DISCONNECT, name, endpoint.network_id, container.name, container.id,
                        why="no longer requested", detaches=1,
                    )
                )  # fmt: skip


def _is_duplicate_gateway(builder: PlanBuilder, container: Container) -> bool:
    """Return whether a container is another running gateway with this gateway's instance name.

    If this gateway has not found its own container, the result is also true for its own container, and for stopped
    gateways with this instance name.
    """
    own = builder.observed.own
    return (
        (own is None or container.state in RUNNING) and container.id != own and builder.desired.is_gateway(container)
    )


def _attachment(builder: PlanBuilder, container: Container, name: str, aliases: tuple[str, ...]) -> None:
    endpoint = container.endpoints.get(name)
    if container.id == builder.observed.own and container.is_task:
        container_conflicts(builder, container, name, aliases)
        builder.report_container(container, name, *gateway_swarm_task_state(builder, container, name))
        return
    if container.id != builder.observed.own and {container.name.lower(), container.hostname} & builder.backend_names(
        name
    ):
        message = "the container has the name of a backend as its name or host name: rename one of them"
        refuse(builder, container, name, AttachmentObstacle.ALIAS_CONFLICT, message)
        return
    if conflict := container_conflicts(builder, container, name, aliases):
        refuse(builder, container, name, AttachmentObstacle.NAME_CONFLICT, conflict)
        return
    conflicts = {alias: other for alias in aliases if (other := conflicting_holder(builder, container, name, alias))}
    free = tuple(alias for alias in aliases if alias not in conflicts)
    taken = "; ".join(f"{alias!r} belongs to {other}" for alias, other in conflicts.items())
    own = container.id == builder.observed.own
    ours = endpoint is not None and is_ours(builder, container, name, endpoint)
    if conflicts and ((endpoint is None and not own) or (not free and (own or not ours))):
        message = f"{taken}: {remedy(conflicts.values())}"
        builder.report_container(container, name, AttachmentState.BLOCKED, AttachmentObstacle.ALIAS_CONFLICT, message)
    elif endpoint is None:
        _connect(builder, container, name, free)
    else:
        reconcile_endpoint(builder, container, name, endpoint, free, taken, ours=ours)


def _connect(builder: PlanBuilder, container: Container, name: str, aliases: tuple[str, ...]) -> None:
    blocked, message = block_reason(builder, container, name)
    if blocked is not None:
        builder.report_container(container, name, AttachmentState.BLOCKED, blocked, message)
        return
    if container.state not in LIVE:
        builder.report_container(container, name, AttachmentState.PENDING, None, f"it is {container.state}")
        return
    if _awaits_replacement(builder, container, name):
        message = "it was detached from the network, which is being replaced: it will be attached to the new network"
        builder.report_container(container, name, AttachmentState.PENDING, None, message)
        return
    builder.report_container(container, name, AttachmentState.PENDING)
    reserve(builder, container, name, aliases)
    builder.connecting.add((container.id, name))
    if builder.options.on_name_conflict == "refuse":
        builder.names.add_planned(container, name, aliases)
    there = builder.known.get(name)
    own = container.id == builder.observed.own
    builder.actions.append(
        PlannedAction(
            ActionKind.CONNECT,
            name,
            there.id if there else name,
            container.name,
            container.id,
            (*aliases, builder.desired.owner_alias),
            builder.why(container) if not own else "clients reach backends through the gateway",
            addresses=own_addresses(builder, name) if own else (),
        )
    )


def _awaits_replacement(builder: PlanBuilder, container: Container, name: str) -> bool:
    """Return whether an operator detached a container to let the gateway replace an outdated network.

    The gateway must not reattach such a container before the network is replaced.
    """
    if name not in builder.outdated or (container.id, name) not in builder.seen:
        return False
    # While another container is on the network, the gateway's own container must be attached to it, too.
    own = container.id == builder.observed.own
    return not own or not any(name in each.endpoints for each in builder.observed.containers)
