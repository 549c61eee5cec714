"""Finds containers that lost a shared network namespace: its owner stopped, restarted or was removed. Does no I/O."""

from dataclasses import replace

from gateway.docker.consumer_identity_warnings import is_own_container
from gateway.docker.container_last_start import start_order
from gateway.docker.grants import PROJECT
from gateway.docker.labels import revives
from gateway.docker.per_project_network_names import configured_as
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.planning.unavailable_container_records import (
    unavailable_container,
    unavailable_container_to_recreate,
)
from gateway.docker.snapshot import LIVE, Container
from gateway.docker.start_failure import StartFailureCause
from gateway.docker.unavailable_containers import RevivalStatus, UnavailableContainer


def shared_namespaces(builder: PlanBuilder) -> frozenset[str]:
    """Return the IDs of the containers that own a shared network namespace.

    The result contains only the gateway's container and containers on the gateway's networks. If an owner is removed,
    its ID stays in the result as long as another container refers to it.
    """
    found = set()
    for container in filter(lambda each: each.joins, builder.observed.containers):
        owner = _owner(builder, container)
        if owner is None and container.joins in builder.desired.namespaces:
            found.add(container.joins)
        elif owner is not None and _concerns_gateway(builder, owner):
            found.add(owner.id)
    return frozenset(found)


def without_namespace(builder: PlanBuilder, container: Container) -> UnavailableContainer | None:
    """Return an `UnavailableContainer` for a start that failed because the namespace's owner was not running.

    If the owner was removed, the result says that the container must be recreated. Return None if the gateway ignores
    the container; see `_is_in_scope` and `_without_owner`.
    """
    owner = _owner(builder, container)
    if owner is None:
        return _without_owner(builder, container)
    if not _is_in_scope(builder, container, owner):
        return None
    detail = f"it uses the network of container {owner.name}, which was not running"
    if owner.state != "running":
        return unavailable_container(
            container,
            StartFailureCause.NAMESPACE,
            detail,
            RevivalStatus.WAITING,
            f"container {owner.name} is not running",
        )
    at = owner.last_start.at if owner.last_start is not None else 0.0
    unavailable = unavailable_container(container, StartFailureCause.NAMESPACE, detail, RevivalStatus.STARTING)
    return replace(unavailable, owner_start=at)


def without_namespace_while_running(builder: PlanBuilder, container: Container) -> UnavailableContainer | None:
    """Return an `UnavailableContainer` for a running container that has lost its shared namespace; otherwise None."""
    if not container.joins:
        return None
    owner = _owner(builder, container)
    if owner is None:
        return _without_owner(builder, container)
    start, owners = container.last_start, owner.last_start
    if start is None or owners is None or not start.at or not _is_in_scope(builder, container, owner):
        return None
    detail = f"it uses the old network of container {owner.name}, which has restarted"
    if owner.state not in LIVE:
        message = f"container {owner.name} is not running"
        detail = f"it uses the network of container {owner.name}, which has stopped"
        return unavailable_container(container, StartFailureCause.NAMESPACE, detail, RevivalStatus.WAITING, message)
    if owner.state != "running" or container.state != "running":
        return None
    engine_time = builder.observed.engine_time
    if (
        start_order(owners.at, engine_time) <= start_order(start.at, engine_time)
        or (container.id, owners.at) in builder.desired.restarted
    ):
        return None
    unavailable = unavailable_container(container, StartFailureCause.NAMESPACE, detail, RevivalStatus.STARTING)
    return replace(unavailable, owner_start=owners.at)


def later_starts(builder: PlanBuilder) -> dict[str, float]:
    """Find namespace owners whose start time seems to be in the future, because the engine's clock was set back.

    The containers that join these namespaces need no restart. The gateway records the owners' start times. Without
    this record, the gateway would restart the containers when the engine's clock reaches these times.

    Returns:
        For the ID of each container that joins such a namespace: the owner's start time, in seconds since the epoch.
    """
    engine_time, found = builder.observed.engine_time, {}
    for container in builder.observed.containers:
        owner = _owner(builder, container) if container.joins and engine_time else None
        start, owners = container.last_start, owner.last_start if owner is not None else None
        if start is not None and owners is not None and 0 < start.at <= engine_time < owners.at:
            found[container.id] = owners.at
    return found


def _without_owner(builder: PlanBuilder, container: Container) -> UnavailableContainer | None:
    recorded = container.joins in builder.desired.namespaces
    asks = revives(container.labels, builder.options.label_prefix, default=False)
    if not (recorded or asks or _is_in_gateway_project(builder, container)):
        return None
    return unavailable_container_to_recreate(
        container, StartFailureCause.NAMESPACE, "it uses the network of a container that was removed"
    )


def _is_in_gateway_project(builder: PlanBuilder, container: Container) -> bool:
    """Return whether a container is in the gateway's Compose project, and has a restart policy.

    A container without a restart policy may be temporary, for example for debugging.
    """
    own, project, start = builder.observed.own_container, container.labels.get(PROJECT), container.last_start
    same_project = own is not None and project is not None and project == own.labels.get(PROJECT)
    return same_project and start is not None and start.restarts


def _owner(builder: PlanBuilder, container: Container) -> Container | None:
    """Return the owner of the network namespace that a container joins; None if the owner was removed."""
    return next((each for each in builder.observed.containers if container.joins in (each.id, each.name)), None)


def _is_in_scope(builder: PlanBuilder, container: Container, owner: Container) -> bool:
    """Return whether the gateway may restart a container that joins the network namespace of `owner`.

    This is true if the container's label `gateway.revive` is true, or if `_concerns_gateway` is true for `owner`.
    """
    asks = revives(container.labels, builder.options.label_prefix, default=False)
    return asks or _concerns_gateway(builder, owner)


def _concerns_gateway(builder: PlanBuilder, owner: Container) -> bool:
    """Return whether `owner` uses the network namespace of the gateway, or of a container on the gateway's networks.

    `owner` has its own namespace, or shares that of another container. If the other container was removed, return
    whether `DesiredState.namespaces` contains it.
    """
    base = builder.observed.base(owner)
    if base is None:
        return owner.joins in builder.desired.namespaces
    if is_own_container(builder.desired, builder.observed, base):
        return True
    return any(configured_as(builder.desired.networks, name) is not None for name in base.endpoints)
