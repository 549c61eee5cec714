"""Finds dead containers (see `dead_containers`), and plans which of them to start (`docker.revive`). Does no I/O."""

from dataclasses import replace

from gateway.docker.dead_containers import DeadContainer, RevivalStatus
from gateway.docker.engine_flavor import DOCKER
from gateway.docker.labels import INSTANCE, revives
from gateway.docker.plan import ActionKind, PlannedAction
from gateway.docker.planning.dead_container_builder import dead_container, dead_container_to_recreate
from gateway.docker.planning.gateway_container import is_bound_to_removed_network, reconnect_command
from gateway.docker.planning.lost_namespaces import without_namespace, without_namespace_while_running
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.separate_network_names import configured_as
from gateway.docker.snapshot import RUNNING, Container
from gateway.docker.start_failure import CANCELED, StartFailure, StartFailureCause, read_error
from gateway.text_sanitizer import one_line


def revive(builder: PlanBuilder) -> tuple[DeadContainer, ...]:
    """Return the dead containers. If the configuration permits this, add actions to the plan that start them.

    A container that an operator stopped has no start error, so it is not dead. A dead container without a restart
    policy is not started, because the engine would not restart it either.

    Args:
        builder: The plan so far, with all other actions.
    """
    if builder.observed.flavor is not DOCKER:
        return ()
    found = []
    for container in builder.observed.containers:
        if container.is_task or container.id == builder.observed.own or _is_for_other_gateway(builder, container):
            continue
        judged = (
            without_namespace_while_running(builder, container)
            if container.state in RUNNING
            else _stopped(builder, container)
        )
        if judged is None:
            continue
        excluded = not revives(container.labels, builder.options.label_prefix, default=True)
        dead = replace(_with_start_restriction(builder, container, judged), is_excluded=excluded)
        found.append(dead)
        if dead.state is RevivalStatus.STARTING:
            verb = ActionKind.RESTART if container.state in RUNNING else ActionKind.START
            builder.actions.append(
                PlannedAction(
                    verb, "", "", container.name, container.id,
                    why=dead.detail, cause=dead.cause, last_start=container.last_start,
                    owner_start=dead.owner_start, backend=dead.backend,
                )
            )  # fmt: skip
    return tuple(found)


def _with_start_restriction(builder: PlanBuilder, container: Container, dead: DeadContainer) -> DeadContainer:
    """Return `dead`, or a copy whose state says why the gateway is not allowed to start the container."""
    if dead.state not in (RevivalStatus.STARTING, RevivalStatus.WAITING):
        return dead
    options, desired, start = builder.options, builder.desired, container.last_start
    command = f"docker {'restart' if container.state in RUNNING else 'start'} {container.name}"
    chosen = revives(container.labels, options.label_prefix, default=options.revive)
    if not chosen or (desired.strict and not options.revive):
        setting = builder.label("revive") if options.revive else "docker.revive"
        return replace(dead, state=RevivalStatus.OFF, message=f"{setting} is false", command=command)
    if start is None or not start.restarts:
        return replace(dead, state=RevivalStatus.OFF, message="it has no restart policy", command=command)
    signals = desired.signals.get(container.id, {})
    if container.state in RUNNING and start.may_be_stopped_by(signals, builder.observed.clock):
        message = "another client sent it a signal, which possibly stops it"
        return replace(dead, state=RevivalStatus.OFF, message=message, command=command)
    if (container.id, dead.owner_start) in desired.given_up:
        return replace(dead, state=RevivalStatus.GIVEN_UP, message="too many starts failed", command=command)
    return dead


def _is_for_other_gateway(builder: PlanBuilder, container: Container) -> bool:
    return container.labels.get(builder.label(INSTANCE), builder.desired.instance) != builder.desired.instance


def _stopped(builder: PlanBuilder, container: Container) -> DeadContainer | None:
    start = container.last_start
    if start is None or not start.restarts:
        return None
    requested = builder.desired.interrupted.get(container.id)
    if requested is not None and start.error.endswith(CANCELED):
        detail = "the gateway was stopped, or lost its connection to the engine, while it started the container"
        if requested.cause is StartFailureCause.VOLUME:
            if all(each.backend != requested.backend for each in builder.desired.mount_addresses):
                message, command = f"backend {requested.backend} is not configured", f"docker start {container.name}"
                return dead_container(container, requested.cause, detail, RevivalStatus.OFF, message, command)
            return _when_up(builder, container, requested.backend, detail)
        return dead_container(container, requested.cause, detail, RevivalStatus.STARTING)
    if (failed := read_error(start.error)) is None:
        return None
    if failed.cause is StartFailureCause.VOLUME:
        return _without_volume(builder, container, failed)
    if failed.cause is StartFailureCause.NAMESPACE:
        return without_namespace(builder, container) if failed.owner == container.joins else None
    return _without_network(builder, container, failed)


def _without_volume(builder: PlanBuilder, container: Container, failed: StartFailure) -> DeadContainer | None:
    bridges = {
        each for network in builder.observed.networks if network.driver == "bridge" for each in network.gateways
    }
    backend = next(
        (
            each.backend
            for each in builder.desired.mount_addresses
            if each.is_at(failed.address, failed.port, bridges)
        ),
        None,
    )
    if backend is None:
        return None
    detail = f"its volume on backend {backend} was not mounted: {one_line(failed.detail)}"
    return _when_up(builder, container, backend, detail)


def _when_up(builder: PlanBuilder, container: Container, backend: str, detail: str) -> DeadContainer:
    """Return a `DeadContainer` for a failed mount. The gateway starts the container when `backend` is up."""
    usable = builder.desired.usable
    dead = dead_container(container, StartFailureCause.VOLUME, detail, RevivalStatus.STARTING)
    if usable is not None and backend in usable:
        return replace(dead, backend=backend)
    why = f"backend {backend} is not up"
    if usable is None:  # `gateway plan` and `gateway apply` do not know the states of backends
        why = f"the service starts it when backend {backend} is up"
    return replace(dead, state=RevivalStatus.WAITING, message=why, backend=backend)


def _without_network(builder: PlanBuilder, container: Container, failed: StartFailure) -> DeadContainer | None:
    named = [
        name for name, endpoint in container.endpoints.items() if failed.network in ("", name, endpoint.network_id)
    ]
    if not named and (container.network_mode != failed.network or len(container.endpoints) == 1):
        # The error contains the ID of a removed network. The container was later attached to a new network with the
        # same name and another ID.
        named = list(container.endpoints)
    ours = [
        name
        for name in named
        if configured_as(builder.desired.networks, name) or (container.id, name) in builder.ours
    ]
    if not ours:
        return None
    name = ours[0]
    if failed.exists:
        detail = f"it was not attached to network {name}: {one_line(failed.detail)}"
        if not builder.observed.swarm.active:
            message = "this engine has no connection to the managers of its swarm"
            return dead_container(container, StartFailureCause.NETWORK, detail, RevivalStatus.WAITING, message)
        return dead_container(container, StartFailureCause.NETWORK, detail, RevivalStatus.STARTING)
    detail = f"its network {name} did not exist"
    if any(each.container_id == container.id and each.network == name for each in builder.actions):
        return dead_container(
            container,
            StartFailureCause.NETWORK,
            detail,
            RevivalStatus.WAITING,
            f"it is attached to network {name} first",
        )
    there, endpoint = builder.known.get(name), container.endpoints[name]
    if is_bound_to_removed_network(builder, container):
        return dead_container_to_recreate(container, StartFailureCause.NETWORK, detail)
    if there is not None and endpoint.network_id in ("", there.id):
        return dead_container(container, StartFailureCause.NETWORK, detail, RevivalStatus.STARTING)
    if (container.id, name) in builder.ours:
        return dead_container(
            container,
            StartFailureCause.NETWORK,
            detail,
            RevivalStatus.WAITING,
            f"network {name} does not exist yet",
        )
    reconnect = reconnect_command(builder, container, name)
    if not reconnect:
        return dead_container_to_recreate(container, StartFailureCause.NETWORK, detail)
    command = f"{reconnect} && docker start {container.name}"
    message = "the gateway did not attach it to the network: every start fails until the container is reconnected"
    return dead_container(container, StartFailureCause.NETWORK, detail, RevivalStatus.RECREATE, message, command)
