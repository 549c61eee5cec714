"""Compares existing endpoints with the desired state, and plans to reattach or detach containers."""

from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.plan import ActionKind, AttachmentState, PlannedAction
from gateway.docker.planning.aliases import reserve
from gateway.docker.planning.gateway_container import (
    address_change,
    is_bound_to_removed_network,
    own_addresses,
    removed_network_message,
)
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.snapshot import RUNNING, Container, NetworkEndpoint


def reconcile_endpoint(
    builder: PlanBuilder,
    container: Container,
    name: str,
    endpoint: NetworkEndpoint,
    free: tuple[str, ...],
    taken: str,
    *,
    ours: bool,
) -> None:
    """Compare an endpoint with the desired state, and plan its repair.

    Args:
        builder: The plan so far.
        container: The container.
        name: The network's name.
        endpoint: The container's endpoint on the network.
        free: The desired aliases that the endpoint can have.
        taken: A message about desired aliases that other containers hold; empty if all desired aliases are free.
        ours: Whether the gateway created the endpoint.
    """
    there = builder.known.get(name)
    if container.state not in RUNNING and (
        name in builder.creatable or is_bound_to_removed_network(builder, container)
    ):
        builder.report_container(
            container,
            name,
            AttachmentState.DRIFTED,
            None,
            removed_network_message(builder, container, name, ours=ours),
        )
        return
    if there is not None and endpoint.network_id not in ("", there.id):
        _stale(builder, container, name, free, ours=ours)
        return
    missing = [alias for alias in free if endpoint.aliases is not None and alias not in endpoint.aliases]
    beyond = (
        sorted(
            (endpoint.aliases or frozenset())
            - {*free, builder.desired.owner_alias, container.id[:12], *container.given_names}
        )
        if ours
        else []
    )
    moves = address_change(builder, name, endpoint) if ours and container.id == builder.observed.own else ""
    if ours and (missing or beyond or moves):
        wrong = [moves] if moves else []
        wrong += [f"it lacks the aliases {', '.join(missing)}"] if missing else []
        wrong += [f"it still has the aliases {', '.join(beyond)}"] if beyond else []
        _repair(builder, container, name, endpoint, free, " and ".join(wrong))
    elif missing:
        message = f"it was not attached by the gateway, and lacks the aliases {', '.join(missing)}"
        if container.id == builder.observed.own:
            command = f"{builder.observed.flavor.command} network disconnect {name} {container.name}"
            message += f": run {command}, and the gateway reattaches itself"
        builder.report_container(container, name, AttachmentState.DRIFTED, None, message)
    elif taken:
        builder.report_container(container, name, AttachmentState.DRIFTED, AttachmentObstacle.ALIAS_CONFLICT, taken)
    else:
        builder.report_container(container, name, AttachmentState.ATTACHED)


def refuse(builder: PlanBuilder, container: Container, name: str, reason: AttachmentObstacle, message: str) -> None:
    """Report why a container must not be on a network. If the container is attached, plan to detach it.

    Detach only containers that the gateway attached, and only if `docker.repair` permits it.
    """
    endpoint = container.endpoints.get(name)
    if endpoint is None:
        builder.report_container(container, name, AttachmentState.BLOCKED, reason, message)
        return
    ours = is_ours(builder, container, name, endpoint)
    kept = _repair_block(builder, container) if ours else "it was not attached by the gateway"
    if kept:
        builder.report_container(
            container, name, AttachmentState.DRIFTED, reason, f"{message}; it stays attached: {kept}"
        )
        return
    builder.report_container(container, name, AttachmentState.BLOCKED, reason, message)
    builder.actions.append(
        PlannedAction(
            ActionKind.DISCONNECT, name, endpoint.network_id, container.name, container.id,
            why="name conflict", detaches=1,
        )
    )  # fmt: skip


def is_ours(builder: PlanBuilder, container: Container, name: str, endpoint: NetworkEndpoint) -> bool:
    """Return whether the gateway attached the container to the network."""
    known = endpoint.aliases is not None and builder.desired.owner_alias in endpoint.aliases
    return known and (container.id, name) in builder.ours


def _repair_block(builder: PlanBuilder, container: Container) -> str:
    """Return the reason why the gateway must not detach or reattach a container; empty if there is none."""
    own = container.id == builder.observed.own
    busy = container.id in builder.desired.busy or (own and builder.desired.serving)
    if builder.options.repair == "disruptive" or (builder.options.repair == "idle" and not busy):
        return ""
    return "it has connections" if builder.options.repair == "idle" else "docker.repair is never"


def _stale(builder: PlanBuilder, container: Container, name: str, aliases: tuple[str, ...], *, ours: bool) -> None:
    """Report a container whose network was removed and created again, and which therefore cannot start.

    If the gateway attached the container, plan to reattach it to the new network.
    """
    builder.report_container(
        container, name, AttachmentState.DRIFTED, None, removed_network_message(builder, container, name, ours=ours)
    )
    if ours:
        reserve(builder, container, name, aliases)
        again = (*aliases, builder.desired.owner_alias)
        there = builder.known[name].id
        addresses = own_addresses(builder, name) if container.id == builder.observed.own else ()
        why = "its network was removed"
        builder.actions.append(
            PlannedAction(
                ActionKind.REATTACH, name, there, container.name, container.id, again, why, addresses=addresses
            )
        )


def _repair(
    builder: PlanBuilder,
    container: Container,
    name: str,
    endpoint: NetworkEndpoint,
    aliases: tuple[str, ...],
    why: str,
) -> None:
    if kept := _repair_block(builder, container):
        builder.report_container(container, name, AttachmentState.DRIFTED, None, f"{why}; not repaired: {kept}")
        return
    builder.report_container(container, name, AttachmentState.DRIFTED, None, why)
    reserve(builder, container, name, aliases)
    marked_aliases = (*aliases, builder.desired.owner_alias)
    # Clients may have cached the current address, so request the same address if the engine can assign it again.
    current = tuple(each for each in endpoint.addresses if "." in each)[:1]
    there = builder.known.get(name)
    addresses = current if there is not None and builder.is_ours(there.labels) else ()
    if container.id == builder.observed.own:
        addresses = own_addresses(builder, name) or addresses
    builder.actions.append(
        PlannedAction(
            ActionKind.REATTACH, name, endpoint.network_id, container.name, container.id, marked_aliases, why,
            addresses=addresses,
        )
    )  # fmt: skip
