"""Builds shell commands that recreate a container with other mounts, and copy its data to them. Does no I/O.

For a container that Compose created, the commands use an override file. For a task of a swarm service, they use
`docker service update`. For other containers, they use `docker create` with the container's current options.
"""

import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.audit.compose_override import override
from gateway.audit.container_host_config_options import restart_policy
from gateway.audit.container_recreate_obstacles import obstacles
from gateway.audit.data_copy_commands import (
    END,
    copy_commands,
    helper_creation_commands,
    is_live,
    remove_on_failure,
    require_absent_volumes,
    saved,
    volume_creation_commands,
)
from gateway.audit.docker_create_options import changed_addresses, networks, options, variables
from gateway.audit.errors import UnsupportedContainerSettingError
from gateway.audit.proposed_mount_changes import ProposedMountChanges, volume_options
from gateway.audit.shell_command_builder import command, script
from gateway.audit.snapshot_model import ONE_OFF, AuditedContainer, AuditSnapshot
from gateway.audit.swarm_service_fix_commands import NODE_LABEL, service_update
from gateway.docker.compose_command_line import COMPOSE_LABELS, FILES, compose_command
from gateway.docker.grants import SWARM_SERVICE
from gateway.text_sanitizer import one_line
from gateway.unique_name import unique_name

_INSPECT_ENV = "{{range .Config.Env}}{{println .}}{{end}}"


def volume_for(snapshot: AuditSnapshot, container: AuditedContainer, path: str) -> str:
    """Return an unused volume name, made from the container's name and the last part of `path`."""
    name = re.sub(r"[^a-zA-Z0-9_.-]+", "-", f"{container.name}-{posixpath.basename(path) or 'data'}")
    return unique_name(name, snapshot.volumes)


def recreate(snapshot: AuditSnapshot, container: AuditedContainer, change: ProposedMountChanges) -> str:
    """Return shell commands that replace a container; only shell comments if no commands are safe.

    Args:
        snapshot: The snapshot. It lists the container and volume names that are in use.
        container: The container.
        change: The changes to the mounts.
    """
    words = (
        container.name,
        *change.mounts,
        *change.mounts.values(),
        *change.copied,
        *change.setup,
        *_known(container),
    )
    if not all(each.isprintable() for each in words):
        return f"# {one_line(container.name)}: a path contains control characters: no command is safe to print"
    binds = (each.source for each in container.mounts if each.kind == "bind")
    if any(":" in each for each in (*change.mounts, *change.mounts.values(), *_paths(container), *binds)):
        return f"# {container.name}: a path contains a colon, which -v does not support: change the mounts manually"
    if reasons := obstacles(snapshot, container, change):
        return _by_hand(snapshot.cli, container, change, reasons)
    labels, cli = container.labels, snapshot.cli
    if labels.get(SWARM_SERVICE):
        return service_update(labels[SWARM_SERVICE], container, change, cli)
    try:
        if compose_command(labels) and labels[FILES].startswith("/") and labels.get(ONE_OFF) != "True":
            return override(snapshot, container, change)
        return _run(snapshot, container, change)
    except UnsupportedContainerSettingError as error:
        return _manual_steps(container, change, str(error), cli)


def _run(snapshot: AuditSnapshot, container: AuditedContainer, change: ProposedMountChanges) -> str:
    cli, name = snapshot.cli, container.name
    taken = [each.name for each in snapshot.containers]
    old, new, helper = (unique_name(f"{name}-{each}", taken) for each in ("old", "new", "copy"))
    first, used = _first_network(container), dict(networks(container))
    connects = [
        command(cli, "network", "connect", *extra, network, new)
        for network, extra in used.items()
        if network != first
    ]
    attached = (container.inspection.get("NetworkSettings") or {}).get("Networks") or {}
    if cli == "docker" and first not in ("", "host", *attached) and not first.startswith("container:") and attached:
        # A user has disconnected the old container from `first`. Disconnect the new container, too, because
        # `docker create` connects it to `first`.
        connects.insert(0, command(cli, "network", "disconnect", first, new))
    lines = [*require_absent_volumes(cli, change), *change.setup]
    lines += [*volume_creation_commands(cli, change), *remove_on_failure(cli, change)]
    lines += [_create(snapshot, container, change, new), *remove_on_failure(cli, change, new), *connects]
    lines += helper_creation_commands(cli, container, change, helper, new)
    lines += [*copy_commands(cli, container, change, helper, new), END]
    notes = [
        f"# {name} gets another MAC address on {one_line(each)}: {cli} network connect cannot set it"
        for each in changed_addresses(container, first)
    ]
    if container.removed and container.running:
        last = (("rm", "-f", name), ("rename", new, name), ("start", name))
        return "\n".join((script(*lines, *(command(cli, *each) for each in last)), *notes))
    lines += [command(cli, "kill", name)] if is_live(container, change) else []
    policy = list(restart_policy((container.inspection.get("HostConfig") or {}).get("RestartPolicy") or {}))
    lines += [command(cli, "update", "--restart", "no", name)] if policy else []
    lines += [command(cli, "rename", name, old), command(cli, "rename", new, name)]
    lines += [command(cli, "start", name)] if container.running else []
    # The commands in `back` restore the old container, and keep the new one. They also work if the script stopped
    # between its two `rename` commands.
    back = [("stop", name), ("rename", name, new), ("rename", old, name)]
    back += [("update", "--restart", "no", new), ("update", *policy, name)] if policy else []
    back += [("start", name)] if container.running else []
    return "\n".join((
        script(*lines),
        *notes,
        f"# to go back to the old container: {'; '.join(command(cli, *each) for each in back)}",
        f"# when {name} works: {command(cli, 'rm', '-v', old)}",
    ))  # fmt: skip


def _create(snapshot: AuditSnapshot, container: AuditedContainer, change: ProposedMountChanges, new: str) -> str:
    cli = snapshot.cli
    own, arguments = options(container, snapshot.cgroup_mode)
    for network, extra in networks(container):
        if network == _first_network(container):
            own += [each.replace("--alias", "--network-alias") for each in extra]
    names = variables(container)
    from_stdin = ("--env-file", "/dev/stdin") if names else ()
    mounts = volume_options(container, change)
    create = command(cli, "create", *from_stdin, "--name", new, *own, *mounts, container.exact_image, *arguments)
    if not names:
        return create
    # The values of environment variables can be secrets. Therefore, the script does not contain the values, but pipes
    # them from `docker inspect` to `docker create`.
    pattern = "|".join(re.escape(each) for each in names)
    listed = command(cli, "inspect", "-f", _INSPECT_ENV, container.name)
    return f"{listed} | grep -E {shlex.quote(f'^({pattern})=')} | {create}"


def _first_network(container: AuditedContainer) -> str:
    """Return the name of the network with which the container was created.

    The engine can report the ID of the network instead of the name. In this case, look up the name.
    """
    mode = str((container.inspection.get("HostConfig") or {}).get("NetworkMode", ""))
    found: Mapping[str, Any] = (container.inspection.get("NetworkSettings") or {}).get("Networks") or {}
    mode = "bridge" if mode == "default" else mode
    return next((name for name, endpoint in found.items() if mode == endpoint.get("NetworkID")), mode)


def _manual_steps(container: AuditedContainer, change: ProposedMountChanges, left_out: str, cli: str) -> str:
    copies = [saved(cli, container, change.copied)] if change.copied else []
    mounts = command(*volume_options(container, change)) or "no -v"
    if change.setup or change.driver_options:
        copies.insert(
            0,
            script(*require_absent_volumes(cli, change), *change.setup, *volume_creation_commands(cli, change)),
        )
    return "\n".join((
        *copies, f"# create {container.name} again as you created it, but with these mounts: {mounts}",
        f"# (no command can create it exactly: {left_out})",
    ))  # fmt: skip


def _by_hand(cli: str, container: AuditedContainer, change: ProposedMountChanges, reasons: Iterable[str]) -> str:
    """Return shell comments that state why no command is safe, and which steps the user must perform."""
    lines = [f"# {one_line(each)}" for each in reasons]
    name = one_line(container.name)
    lines = [
        f"# {name}: no command is safe to print:",
        *lines,
        f"# stop {name} and the containers that are named above",
    ]
    if change.setup or change.driver_options:
        lines += [f"# {each}" for each in (*change.setup, *volume_creation_commands(cli, change))]
    lines += [
        f"# copy only the files of {one_line(each)} to {one_line(change.mounts[each])}" for each in change.copied
    ]
    mounts = command(*volume_options(container, change)) or "no -v"
    return "\n".join((*lines, f"# create the stopped containers again, and use these mounts for {name}: {mounts}"))


def _paths(container: AuditedContainer) -> Iterator[str]:
    return (each.path for each in container.mounts)


def _known(container: AuditedContainer) -> tuple[str, ...]:
    mounts = (text for each in container.mounts for text in (each.path, each.source, each.volume))
    labels = (container.labels.get(each, "") for each in (*COMPOSE_LABELS, SWARM_SERVICE, NODE_LABEL))
    return (container.exact_image, *mounts, *labels)
