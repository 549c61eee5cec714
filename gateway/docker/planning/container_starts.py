"""Decides which containers to start after a volume, a network or a namespace was missing. Does no I/O."""

import shlex
from dataclasses import replace

from gateway.docker.compose_command import compose_command
from gateway.docker.dead_containers import DeadContainer, DeadContainerState
from gateway.docker.failed_starts import CANCELED, FailedStart, StartFailureCause, read_error
from gateway.docker.flavor import DOCKER
from gateway.docker.grants import PROJECT, SERVICE
from gateway.docker.labels import INSTANCE, revives
from gateway.docker.model import LIVE, RUNNING, Container
from gateway.docker.plan import Action, Verb
from gateway.docker.planning.builder import PlanBuilder
from gateway.docker.planning.gateway_container import is_bound_to_removed_network, reconnect_command
from gateway.docker.project_networks import configured_as
from gateway.text import one_line

_MAX_COMMAND = 4000
"""The maximum length of a command in the status, in characters."""


def revive(builder: PlanBuilder) -> tuple[DeadContainer, ...]:
    """Return the dead containers, and add the actions to start those that the configuration permits.

    A container that an operator stopped has no error, so it is not dead. A container without a restart policy is
    not started, because the engine would not start it either.

    Args:
        builder: The plan, which is complete except for the starts of containers.
    """
    if builder.observed.flavor is not DOCKER:
        return ()
    found = []
    for container in builder.observed.containers:
        if container.is_task or container.id == builder.observed.own or _is_for_other_gateway(builder, container):
            continue
        judged = _running(builder, container) if container.state in RUNNING else _stopped(builder, container)
        if judged is None:
            continue
        excluded = not revives(container.labels, builder.options.label_prefix, default=True)
        dead = replace(_allowed(builder, container, judged), is_excluded=excluded)
        found.append(dead)
        if dead.state is DeadContainerState.STARTING:
            verb = Verb.RESTART if container.state in RUNNING else Verb.START
            builder.actions.append(
                Action(
                    verb, "", "", container.name, container.id,
                    why=dead.detail, cause=dead.cause, last_start=container.last_start,
                )
            )  # fmt: skip
    return tuple(found)


def shared_namespaces(builder: PlanBuilder) -> frozenset[str]:
    """Return the IDs of containers whose namespace others use and which concern the gateway, also after a removal."""
    found = set()
    for container in builder.observed.containers:
        owner = _owner(builder, container)
        if owner is not None and owner is not container and _concerns_gateway(builder, owner):
            found.add(owner.id)
        elif owner is None and container.joins in builder.desired.namespaces:
            found.add(container.joins)
    return frozenset(found)


def _allowed(builder: PlanBuilder, container: Container, dead: DeadContainer) -> DeadContainer:
    """Return the dead container with the state that the configuration and the container's labels permit."""
    if dead.state not in (DeadContainerState.STARTING, DeadContainerState.WAITING):
        return dead
    options, desired, start = builder.options, builder.desired, container.last_start
    command = f"docker {'restart' if container.state in RUNNING else 'start'} {container.name}"
    chosen = revives(container.labels, options.label_prefix, default=options.revive)
    if not chosen or (desired.strict and not options.revive):
        setting = builder.label("revive") if options.revive else "docker.revive"
        return replace(dead, state=DeadContainerState.OFF, message=f"{setting} is false", command=command)
    if start is None or not start.restarts:
        return replace(dead, state=DeadContainerState.OFF, message="it has no restart policy", command=command)
    if container.id in desired.given_up:
        return replace(dead, state=DeadContainerState.GIVEN_UP, message="too many starts failed", command=command)
    return dead


def _is_for_other_gateway(builder: PlanBuilder, container: Container) -> bool:
    """Return whether the labels of a container select another gateway."""
    return container.labels.get(builder.label(INSTANCE), builder.desired.instance) != builder.desired.instance


def _stopped(builder: PlanBuilder, container: Container) -> DeadContainer | None:
    start = container.last_start
    if start is None or not start.restarts:
        return None
    cause = builder.desired.interrupted.get(container.id)
    if cause is not None and start.error.endswith(CANCELED):
        detail = "the gateway was stopped, or lost its connection to the engine, while it started the container"
        return _dead(container, cause, detail, DeadContainerState.STARTING)
    if (failed := read_error(start.error)) is None:
        return None
    if failed.cause is StartFailureCause.VOLUME:
        return _without_volume(builder, container, failed)
    if failed.cause is StartFailureCause.NAMESPACE:
        return _without_namespace(builder, container) if failed.owner == container.joins else None
    return _without_network(builder, container, failed)


def _without_volume(builder: PlanBuilder, container: Container, failed: FailedStart) -> DeadContainer | None:
    backend = next(
        (each.backend for each in builder.desired.mount_listeners if each.is_at(failed.address, failed.port)), None
    )
    if backend is None:
        return None
    detail = f"its volume on backend {backend} was not mounted: {one_line(failed.detail)}"
    usable = builder.desired.usable
    if usable is not None and backend not in usable:
        return _dead(
            container, StartFailureCause.VOLUME, detail, DeadContainerState.WAITING, f"backend {backend} is not up"
        )
    return _dead(container, StartFailureCause.VOLUME, detail, DeadContainerState.STARTING)


def _without_network(builder: PlanBuilder, container: Container, failed: FailedStart) -> DeadContainer | None:
    named = [
        name
        for name, endpoint in container.endpoints.items()
        if failed.network in ("", name, endpoint.network_id) or container.network_mode == failed.network
    ] or list(container.endpoints)  # the container was attached to another network of the same name afterward
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
            return _dead(container, StartFailureCause.NETWORK, detail, DeadContainerState.WAITING, message)
        return _dead(container, StartFailureCause.NETWORK, detail, DeadContainerState.STARTING)
    detail = f"its network {name} did not exist"
    if any(each.container_id == container.id and each.network == name for each in builder.actions):
        return _dead(
            container,
            StartFailureCause.NETWORK,
            detail,
            DeadContainerState.WAITING,
            f"it is attached to network {name} first",
        )
    there, endpoint = builder.known.get(name), container.endpoints[name]
    if is_bound_to_removed_network(builder, container):
        return _recreate(container, StartFailureCause.NETWORK, detail)
    if there is not None and endpoint.network_id in ("", there.id):
        return _dead(container, StartFailureCause.NETWORK, detail, DeadContainerState.STARTING)
    if (container.id, name) in builder.ours:
        return _dead(
            container,
            StartFailureCause.NETWORK,
            detail,
            DeadContainerState.WAITING,
            f"network {name} does not exist yet",
        )
    command = f"{reconnect_command(builder, container, name)} && docker start {container.name}"
    message = "the gateway did not attach it to the network, and a start alone fails again"
    return _dead(container, StartFailureCause.NETWORK, detail, DeadContainerState.RECREATE, message, command)


def _without_namespace(builder: PlanBuilder, container: Container) -> DeadContainer | None:
    owner = _owner(builder, container)
    if owner is None:
        return _without_owner(builder, container)
    if not _is_in_scope(builder, container, owner):
        return None
    detail = f"it uses the network of container {owner.name}, which did not run"
    if owner.state != "running":
        return _dead(
            container,
            StartFailureCause.NAMESPACE,
            detail,
            DeadContainerState.WAITING,
            f"container {owner.name} does not run",
        )
    return _dead(container, StartFailureCause.NAMESPACE, detail, DeadContainerState.STARTING)


def _running(builder: PlanBuilder, container: Container) -> DeadContainer | None:
    """Return a running container if it has lost the network namespace that it shares; None if it has not lost it."""
    if not container.joins:
        return None
    owner = _owner(builder, container)
    if owner is None:
        return _without_owner(builder, container)
    start, owners = container.last_start, owner.last_start
    if start is None or owners is None or not start.at or not _is_in_scope(builder, container, owner):
        return None
    detail = f"it uses the network that container {owner.name} had before its restart"
    if owner.state not in LIVE:
        message = f"container {owner.name} does not run"
        detail = f"it uses the network of container {owner.name}, which has stopped"
        return _dead(container, StartFailureCause.NAMESPACE, detail, DeadContainerState.WAITING, message)
    if owner.state != "running" or owners.at <= start.at or container.state != "running":
        return None
    return _dead(container, StartFailureCause.NAMESPACE, detail, DeadContainerState.STARTING)


def _without_owner(builder: PlanBuilder, container: Container) -> DeadContainer | None:
    own = builder.observed.own_container
    project = container.labels.get(PROJECT)
    ours = container.joins in builder.desired.namespaces or (
        own is not None and project is not None and project == own.labels.get(PROJECT)
    )
    asks = revives(container.labels, builder.options.label_prefix, default=False)
    if container.last_start is None or not container.last_start.restarts or not (ours or asks):
        return None
    return _recreate(container, StartFailureCause.NAMESPACE, "it uses the network of a container that is gone")


def _recreate(container: Container, cause: StartFailureCause, detail: str) -> DeadContainer:
    """Return a container that cannot start again, with the command that recreates it if Compose created it."""
    message = f"a start fails again: recreate container {container.name}"
    compose, command = compose_command(container.labels), ""
    if compose:
        command = shlex.join((*compose, "up", "-d", "--no-deps", "--force-recreate", container.labels[SERVICE]))
    if not command or one_line(command, _MAX_COMMAND) != command:
        message += f" with the options that `docker inspect {container.name}` shows"
        return _dead(container, cause, detail, DeadContainerState.RECREATE, message)
    return _dead(container, cause, detail, DeadContainerState.RECREATE, message, command)


def _owner(builder: PlanBuilder, container: Container) -> Container | None:
    """Return the container whose network namespace a container joins; None if that container was removed."""
    return next((each for each in builder.observed.containers if container.joins in (each.id, each.name)), None)


def _is_in_scope(builder: PlanBuilder, container: Container, owner: Container) -> bool:
    """Return whether the owner of a namespace concerns the gateway, or a label of `container` permits revival."""
    asks = revives(container.labels, builder.options.label_prefix, default=False)
    return asks or _concerns_gateway(builder, owner)


def _concerns_gateway(builder: PlanBuilder, owner: Container) -> bool:
    """Return whether the owner of a namespace is the gateway or on one of its networks."""
    base = builder.observed.base(owner)
    if base is None:
        return owner.joins in builder.desired.namespaces
    if base.id == builder.observed.own or builder.desired.is_gateway(base):
        return True
    return any(configured_as(builder.desired.networks, name) is not None for name in base.endpoints)


def _dead(
    container: Container,
    cause: StartFailureCause,
    detail: str,
    state: DeadContainerState,
    message: str = "",
    command: str = "",
) -> DeadContainer:
    return DeadContainer(container.name, container.id, cause, detail, state, message, command)
