"""Writes shell commands that copy a container's data while no process changes the data. Does no I/O."""

import shlex

from gateway.audit.proposed_mount_changes import ProposedMountChanges, new_volumes
from gateway.audit.shell_command_builder import COPY_ROOT, command, copy, save, script
from gateway.audit.snapshot_model import AuditedContainer

END = "trap - EXIT"
"""A shell command that removes the trap of `on_exit`."""


def helper_creation_commands(
    cli: str, container: AuditedContainer, change: ProposedMountChanges, helper: str, *created: str
) -> list[str]:
    """Return commands that create the helper container, which mounts the new volumes during the copy.

    Return no commands if the change copies no data.

    Args:
        cli: The engine's command line client.
        container: The container to read from.
        change: The changes to the mounts.
        helper: The name of the helper container.
        created: Names of the new containers except the helper. If the script fails, it also removes these containers.
    """
    if not change.copied:
        return []
    mounts = [argument for each in change.copied for argument in ("-v", f"{change.mounts[each]}:{COPY_ROOT}{each}")]
    create = command(cli, "create", "--name", helper, *mounts, container.exact_image, "none")
    return [create, *remove_on_failure(cli, change, helper, *created)]


def copy_commands(
    cli: str, container: AuditedContainer, change: ProposedMountChanges, helper: str, *created: str
) -> list[str]:
    """Return commands that copy a container's data to new volumes.

    If the container is running, the commands first stop it. Exception: the commands only pause a container that is
    live (see `is_live`). The caller must then add a command that kills or removes this container. A database can
    recover from a copy of the paused container's files, as after a power failure.

    The commands copy the data through a helper container (see `helper_creation_commands`), and then remove it.

    The caller must also add `END`. If the script fails before `END`, it removes the helper, the containers in
    `created` and the new volumes. It also starts or unpauses the old container if this container was running. The
    user can then run the same script again.

    Args:
        cli: The engine's command line client.
        container: The container to read from.
        change: The changes to the mounts.
        helper: The name of the helper container; see `helper_creation_commands`.
        created: Names of the new containers except the helper. If the script fails, it also removes these containers.
    """
    copies = [copy(cli, container, helper, path) for path in change.copied]
    copies += [command(cli, "rm", "-v", helper)] if change.copied else []
    helpers = (helper,) if change.copied else ()
    remove, name = _removal(cli, change, *helpers, *created), container.name
    if not container.running:
        return copies
    if is_live(container, change):
        return [on_exit(command(cli, "unpause", name), *remove), command(cli, "pause", name), *copies]
    return [on_exit(command(cli, "start", name), *remove), command(cli, "stop", name), *copies]


def on_exit(*commands: str) -> str:
    """Return a command that sets a trap: the shell runs `commands` when the script exits, unless `END` ran before."""
    # Without `set +e`, the shell would skip the rest of the trap after the first command that fails.
    return f"trap {shlex.quote('; '.join(('set +e', *commands)))} EXIT"


def require_absent_volumes(cli: str, change: ProposedMountChanges) -> list[str]:
    """Return shell commands that stop the script if one of the new volumes already exists.

    Such a volume can belong to another application, or contain incomplete data from an earlier attempt.
    """
    return [
        f"{command(cli, 'volume', 'inspect', each)} > /dev/null 2>&1 && "
        f"{{ echo {shlex.quote(f'the volume {each} exists: run gateway audit again')} >&2; exit 1; }}"
        for each in new_volumes(change)
    ]


def volume_creation_commands(cli: str, change: ProposedMountChanges) -> list[str]:
    """Return commands that create the new volumes to which the changed mounts refer."""
    return [command(cli, "volume", "create", *change.driver_options, each) for each in new_volumes(change)]


def remove_on_failure(cli: str, change: ProposedMountChanges, *created: str) -> list[str]:
    """Return a command that sets a shell trap (see `on_exit`); an empty list if there is nothing to remove.

    If the script fails, the trap removes the new volumes, and the containers with the names in `created`.
    """
    removal = _removal(cli, change, *created)
    return [on_exit(*removal)] if removal else []


def start_on_failure(cli: str, container: AuditedContainer) -> str:
    """Return a command that sets a shell trap (see `on_exit`). If the script fails, the trap starts the container.

    If there is nothing to start, because the container was not running at the time of the audit, return `END`.
    """
    return on_exit(command(cli, "start", container.name)) if container.running else END


def saved(cli: str, container: AuditedContainer, paths: tuple[str, ...]) -> str:
    """Return a script that copies directories of a container to the shell's current directory.

    If the container is running, the script pauses the container during the copy.

    Args:
        cli: The engine's command line client.
        container: The container.
        paths: The directories inside the container.
    """
    lines = [save(cli, container, each) for each in paths]
    if not container.running:
        return script(*lines)
    resume = command(cli, "unpause", container.name)
    return script(on_exit(resume), command(cli, "pause", container.name), *lines)


def is_live(container: AuditedContainer, change: ProposedMountChanges) -> bool:
    """Return whether the container is running, and a stop of the container would destroy the data to copy."""
    return container.running and (container.removed or change.vanishes)


def _removal(cli: str, change: ProposedMountChanges, *created: str) -> list[str]:
    containers = [command(cli, "rm", "-f", "-v", *created)] if created else []
    return [*containers, *(command(cli, "volume", "rm", each) for each in new_volumes(change))]
