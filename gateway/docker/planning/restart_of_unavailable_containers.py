"""Finds unavailable containers (see `unavailable_containers`), and plans which of them to start (`docker.revive`).

Does no I/O.
"""

from dataclasses import replace

from gateway.docker.engine_flavor import DOCKER
from gateway.docker.labels import INSTANCE, revives
from gateway.docker.per_project_network_names import configured_as
from gateway.docker.plan import ActionKind, PlannedAction
from gateway.docker.planning.gateway_container import is_bound_to_removed_network, reconnect_command
from gateway.docker.planning.lost_network_namespaces import without_namespace, without_namespace_while_running
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.planning.unavailable_container_records import (
    unavailable_container,
    unavailable_container_to_recreate,
)
from gateway.docker.snapshot import RUNNING, Container
from gateway.docker.start_failure import CANCELED, StartFailure, StartFailureCause, read_error
from gateway.docker.unavailable_containers import RevivalStatus, UnavailableContainer
from gateway.text_sanitizer import one_line


def revive(builder: PlanBuilder) -> tuple[UnavailableContainer, ...]:
    """Return the unavailable containers. Also plan to start or restart those in state `RevivalStatus.STARTING`.

    A container that an operator stopped has no start error, so it is not unavailable. A stopped container without a
    restart policy is not in the result, because the engine would not restart it either. A running container without a
    restart policy is not restarted. The result is empty if the engine is not Docker.

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
        unavailable = replace(_with_start_restriction(builder, container, judged), is_excluded=excluded)
        found.append(unavailable)
        if unavailable.state is RevivalStatus.STARTING:
            verb = ActionKind.RESTART if container.state in RUNNING else ActionKind.START
            builder.actions.append(
                PlannedAction(
                    verb, "", "", container.name, container.id,
                    why=unavailable.detail, cause=unavailable.cause, last_start=container.last_start,
                    owner_start=unavailable.owner_start, backend=unavailable.backend,
                )
            )  # fmt: skip
    return tuple(found)


def _with_start_restriction(
    builder: PlanBuilder, container: Container, unavailable: UnavailableContainer
) -> UnavailableContainer:
    """Return `unavailable`, with its state replaced by `OFF` or `GIVEN_UP` if the gateway must not start `container`.

    Only the states `STARTING` and `WAITING` are replaced. The message of the result then contains the reason.
    """
    if unavailable.state not in (RevivalStatus.STARTING, RevivalStatus.WAITING):
        return unavailable
    options, desired, start = builder.options, builder.desired, container.last_start
    command = f"docker {'restart' if container.state in RUNNING else 'start'} {container.name}"
    chosen = revives(container.labels, options.label_prefix, default=options.revive)
    if not chosen or (desired.strict and not options.revive):
        setting = builder.label("revive") if options.revive else "docker.revive"
        return replace(unavailable, state=RevivalStatus.OFF, message=f"{setting} is false", command=command)
    if start is None or not start.restarts:
        return replace(unavailable, state=RevivalStatus.OFF, message="it has no restart policy", command=command)
    signals = desired.signals.get(container.id, {})
    if container.state in RUNNING and start.may_be_stopped_by(signals, builder.observed.engine_time):
        message = "another client of the engine sent the container a signal that may stop the container"
        return replace(unavailable, state=RevivalStatus.OFF, message=message, command=command)
    if (container.id, unavailable.owner_start) in desired.given_up:
        return replace(unavailable, state=RevivalStatus.GIVEN_UP, message="too many starts failed", command=command)
    return unavailable


def _is_for_other_gateway(builder: PlanBuilder, container: Container) -> bool:
    return container.labels.get(builder.label(INSTANCE), builder.desired.instance) != builder.desired.instance


def _stopped(builder: PlanBuilder, container: Container) -> UnavailableContainer | None:
    start = container.last_start
    if start is None or not start.restarts:
        return None
    requested = builder.desired.interrupted.get(container.id)
    if requested is not None and start.error.endswith(CANCELED):
        detail = "the gateway was stopped, or lost its connection to the engine, while it started the container"
        if requested.cause is StartFailureCause.VOLUME:
            if all(each.backend != requested.backend for each in builder.desired.mount_addresses):
                message, command = f"backend {requested.backend} is not configured", f"docker start {container.name}"
                return unavailable_container(container, requested.cause, detail, RevivalStatus.OFF, message, command)
            return _when_up(builder, container, requested.backend, detail)
        return unavailable_container(container, requested.cause, detail, RevivalStatus.STARTING)
    if (failed := read_error(start.error)) is None:
        return None
    if failed.cause is StartFailureCause.VOLUME:
        return _without_volume(builder, container, failed)
    if failed.cause is StartFailureCause.NAMESPACE:
        return without_namespace(builder, container) if failed.owner == container.joins else None
    return _without_network(builder, container, failed)


def _without_volume(builder: PlanBuilder, container: Container, failed: StartFailure) -> UnavailableContainer | None:
    bridges = {
        each for network in builder.observed.networks if network.driver == "bridge" for each in network.gateways
    }
    backend = next(
        (
            each.backend
            for each in builder.desired.mount_addresses
            if each.is_at(failed.address, failed.port, bridges, is_share=failed.is_share)
        ),
        None,
    )
    if backend is None:
        return None
    detail = f"its volume on backend {backend} was not mounted: {one_line(failed.detail)}"
    return _when_up(builder, container, backend, detail)


def _when_up(builder: PlanBuilder, container: Container, backend: str, detail: str) -> UnavailableContainer:
    """Return an `UnavailableContainer` whose volume was not mounted. The gateway starts it when `backend` is up."""
    usable = builder.desired.usable
    unavailable = unavailable_container(container, StartFailureCause.VOLUME, detail, RevivalStatus.STARTING)
    if usable is not None and backend in usable:
        return replace(unavailable, backend=backend)
    why = f"backend {backend} is not up"
    if usable is None:  # `gateway plan` and `gateway apply` do not know the states of backends
        why = f"the service starts it when backend {backend} is up"
    return replace(unavailable, state=RevivalStatus.WAITING, message=why, backend=backend)


def _without_network(builder: PlanBuilder, container: Container, failed: StartFailure) -> UnavailableContainer | None:
    named = [
        name for name, endpoint in container.endpoints.items() if failed.network in ("", name, endpoint.network_id)
    ]
    if not named and (container.network_mode != failed.network or len(container.endpoints) == 1):
        # `failed.network` is the ID of a removed network. The container was later attached to a new network with the
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
            return unavailable_container(container, StartFailureCause.NETWORK, detail, RevivalStatus.WAITING, message)
        return unavailable_container(container, StartFailureCause.NETWORK, detail, RevivalStatus.STARTING)
    detail = f"its network {name} did not exist"
    if any(each.container_id == container.id and each.network == name for each in builder.actions):
        return unavailable_container(
            container,
            StartFailureCause.NETWORK,
            detail,
            RevivalStatus.WAITING,
            f"it is attached to network {name} first",
        )
    there, endpoint = builder.known.get(name), container.endpoints[name]
    if is_bound_to_removed_network(builder, container):
        return unavailable_container_to_recreate(container, StartFailureCause.NETWORK, detail)
    if there is not None and endpoint.network_id in ("", there.id):
        return unavailable_container(container, StartFailureCause.NETWORK, detail, RevivalStatus.STARTING)
    if (container.id, name) in builder.ours:
        return unavailable_container(
            container,
            StartFailureCause.NETWORK,
            detail,
            RevivalStatus.WAITING,
            f"network {name} does not exist yet",
        )
    reconnect = reconnect_command(builder, container, name)
    if not reconnect:
        return unavailable_container_to_recreate(container, StartFailureCause.NETWORK, detail)
    command = f"{reconnect} && docker start {container.name}"
    message = "the gateway did not attach it to the network: every start fails until the container is reconnected"
    return unavailable_container(
        container, StartFailureCause.NETWORK, detail, RevivalStatus.RECREATE, message, command
    )
