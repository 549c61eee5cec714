"""Containers that failed because a volume, a network or a namespace was missing: which to start. Pure."""

import shlex
from dataclasses import replace

from gateway.docker.dead import Dead, RevivalState
from gateway.docker.failed_starts import Cause, FailedStart, read
from gateway.docker.flavour import DOCKER
from gateway.docker.grants import PROJECT, SERVICE
from gateway.docker.labels import INSTANCE, revives
from gateway.docker.model import LIVE, RUNNING, Container
from gateway.docker.plan import Action, Verb
from gateway.docker.planning.draft import Draft
from gateway.docker.planning.own import is_bound_to_removed_network, reconnecting
from gateway.docker.projects import configured_as
from gateway.text import one_line

_FILES = "com.docker.compose.project.config_files"


def revive(draft: Draft) -> tuple[Dead, ...]:
    """Return the dead containers, and plan to start those that the configuration permits.

    A container that a person stopped has no error, and is not among them. Neither is one without a restart policy,
    which the engine would not start, either.

    Args:
        draft: The plan, complete but for this.
    """
    if draft.observed.flavour is not DOCKER:
        return ()
    found = []
    for container in draft.observed.containers:
        if container.is_task or container.id == draft.observed.own or _is_others(draft, container):
            continue
        judged = _running(draft, container) if container.state in RUNNING else _stopped(draft, container)
        if judged is None:
            continue
        dead = _allowed(draft, container, judged)
        found.append(dead)
        if dead.state is RevivalState.STARTING:
            verb = Verb.RESTART if container.state in RUNNING else Verb.START
            draft.actions.append(
                Action(verb, "", "", container.name, container.id, why=dead.detail, cause=dead.cause)
            )
    return tuple(found)


def _allowed(draft: Draft, container: Container, dead: Dead) -> Dead:
    """Return what becomes of a container that could be started, as the configuration and its labels say."""
    if dead.state not in (RevivalState.STARTING, RevivalState.WAITING):
        return dead
    options, desired, start = draft.options, draft.desired, container.last_start
    command = f"docker {'restart' if container.state in RUNNING else 'start'} {container.name}"
    chosen = revives(container.labels, options.label_prefix, default=options.revive)
    if not chosen or (desired.strict and not options.revive):
        setting = draft.label("revive") if options.revive else "docker.revive"
        return replace(dead, state=RevivalState.OFF, message=f"{setting} is false", command=command)
    if start is None or not start.restarts:
        return replace(dead, state=RevivalState.OFF, message="its restart policy is no", command=command)
    if container.id in desired.given_up:
        return replace(dead, state=RevivalState.GIVEN_UP, message="too many starts failed", command=command)
    return dead


def _is_others(draft: Draft, container: Container) -> bool:
    """Return whether its labels are meant for another gateway."""
    return container.labels.get(draft.label(INSTANCE), draft.desired.instance) != draft.desired.instance


def _stopped(draft: Draft, container: Container) -> Dead | None:
    start = container.last_start
    if start is None or not start.restarts or (failed := read(start.error)) is None:
        return None
    if failed.cause is Cause.VOLUME:
        return _without_volume(draft, container, failed)
    if failed.cause is Cause.NAMESPACE:
        return _without_namespace(draft, container) if failed.owner == container.joins else None
    return _without_network(draft, container, failed)


def _without_volume(draft: Draft, container: Container, failed: FailedStart) -> Dead | None:
    backend = next(
        (each.backend for each in draft.desired.mount_listeners if each.is_at(failed.address, failed.port)), None
    )
    if backend is None:
        return None
    detail = f"its volume on backend {backend} was not mounted: {one_line(failed.detail)}"
    usable = draft.desired.usable
    if usable is not None and backend not in usable:
        return _dead(container, Cause.VOLUME, detail, RevivalState.WAITING, f"backend {backend} is not up")
    return _dead(container, Cause.VOLUME, detail, RevivalState.STARTING)


def _without_network(draft: Draft, container: Container, failed: FailedStart) -> Dead | None:
    named = [
        name
        for name, endpoint in container.endpoints.items()
        if failed.network in ("", name, endpoint.network_id) or container.network_mode == failed.network
    ] or list(container.endpoints)  # it was attached to another network of that name since
    ours = [
        name for name in named if configured_as(draft.desired.networks, name) or (container.id, name) in draft.ours
    ]
    if not ours:
        return None
    name = ours[0]
    if failed.exists:
        detail = f"it was not attached to network {name}: {one_line(failed.detail)}"
        if not draft.observed.swarm.active:
            message = "this engine has no contact with the managers of its swarm"
            return _dead(container, Cause.NETWORK, detail, RevivalState.WAITING, message)
        return _dead(container, Cause.NETWORK, detail, RevivalState.STARTING)
    detail = f"its network {name} did not exist"
    if any(each.container_id == container.id and each.network == name for each in draft.actions):
        return _dead(
            container, Cause.NETWORK, detail, RevivalState.WAITING, f"it is attached to network {name} first"
        )
    there, endpoint = draft.known.get(name), container.endpoints[name]
    if is_bound_to_removed_network(draft, container):
        return _recreate(container, Cause.NETWORK, detail)
    if there is not None and endpoint.network_id in ("", there.id):
        return _dead(container, Cause.NETWORK, detail, RevivalState.STARTING)
    if (container.id, name) in draft.ours:
        return _dead(container, Cause.NETWORK, detail, RevivalState.WAITING, f"network {name} does not exist yet")
    command = f"{reconnecting(draft, container, name)} && docker start {container.name}"
    message = "it joined the network by other means, and a start does not help"
    return _dead(container, Cause.NETWORK, detail, RevivalState.RECREATE, message, command)


def _without_namespace(draft: Draft, container: Container) -> Dead | None:
    owner = _owner(draft, container)
    if owner is None:
        return _without_owner(container)
    if not _is_in_scope(draft, container, owner):
        return None
    detail = f"it uses the network of container {owner.name}, which did not run"
    if owner.state != "running":
        return _dead(container, Cause.NAMESPACE, detail, RevivalState.WAITING, f"container {owner.name} does not run")
    return _dead(container, Cause.NAMESPACE, detail, RevivalState.STARTING)


def _running(draft: Draft, container: Container) -> Dead | None:
    """Judge a container that runs, and may have lost the network namespace that it shares."""
    if not container.joins:
        return None
    owner = _owner(draft, container)
    if owner is None:
        return _without_owner(container)
    start, owners = container.last_start, owner.last_start
    if start is None or owners is None or not start.at or not _is_in_scope(draft, container, owner):
        return None
    detail = f"it uses the network that container {owner.name} had before its restart"
    if owner.state not in LIVE:
        message = f"container {owner.name} does not run"
        detail = f"it uses the network of container {owner.name}, which has stopped"
        return _dead(container, Cause.NAMESPACE, detail, RevivalState.WAITING, message)
    if owner.state != "running" or owners.at <= start.at or container.state != "running":
        return None
    return _dead(container, Cause.NAMESPACE, detail, RevivalState.STARTING)


def _without_owner(container: Container) -> Dead:
    return _recreate(container, Cause.NAMESPACE, "it uses the network of a container that is gone")


def _recreate(container: Container, cause: Cause, detail: str) -> Dead:
    """Return a container that cannot start again, with the command that replaces it."""
    message = f"a start does not help: create container {container.name} again"
    labels = container.labels
    if PROJECT not in labels or SERVICE not in labels:
        return _dead(
            container,
            cause,
            detail,
            RevivalState.RECREATE,
            message,
            f"docker rm -f {container.name} && docker run --name {container.name} …",
        )
    parts = ["docker", "compose", "-p", labels[PROJECT]]
    for file in filter(None, labels.get(_FILES, "").split(",")):
        parts += ["-f", file]
    parts += ["up", "-d", "--no-deps", "--force-recreate", labels[SERVICE]]
    return _dead(container, cause, detail, RevivalState.RECREATE, message, one_line(shlex.join(parts)))


def _owner(draft: Draft, container: Container) -> Container | None:
    """Return the container whose network it joins, which may itself join another one's; None: it is gone."""
    return next((each for each in draft.observed.containers if container.joins in (each.id, each.name)), None)


def _is_in_scope(draft: Draft, container: Container, owner: Container) -> bool:
    """Return whether to act on a namespace: the gateway's, one of a container on its networks, or by label."""
    base = draft.observed.base(owner)
    if base is None or base.id == draft.observed.own or draft.desired.is_gateway(base):
        return True
    there = any(configured_as(draft.desired.networks, name) is not None for name in base.endpoints)
    return there or revives(container.labels, draft.options.label_prefix, default=False)


def _dead(
    container: Container, cause: Cause, detail: str, state: RevivalState, message: str = "", command: str = ""
) -> Dead:
    return Dead(container.name, container.id, cause, detail, state, message, command)
