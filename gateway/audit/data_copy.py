"""Writes commands that copy a container's data to another container while nothing changes the data. Does no I/O."""

import shlex

from gateway.audit.model import AuditedContainer
from gateway.audit.mount_changes import MountChanges, new_volumes
from gateway.audit.shell_commands import command, copy, save, script

END = "trap - EXIT"
"""The command after which a failure runs no further command."""


def frozen(client: str, container: AuditedContainer, change: MountChanges, new: str) -> list[str]:
    """Return commands that stop or pause a container, and copy its data to another container.

    The commands are lines of a script that stops at the first command that fails. Until `END`, a failure removes the
    new container and the new volumes, and the old container runs again. The same script can then run again.

    A container that stops completes its writes, so the commands stop it before they copy the data. If the data exists
    only while the container runs, they pause it, and the caller must kill it. A database then recovers from the copy
    as after a power failure.

    Args:
        client: The engine's command line client.
        container: The container to read from.
        change: How the mounts change.
        new: The name of the container to write to, which must exist; empty if the change copies no data.
    """
    copies = [copy(client, container, new, path) for path in change.copied]
    remove, name = _removal(client, change, new), container.name
    if not container.running:
        return copies
    if is_live(container, change):
        return [on_exit(command(client, "unpause", name), *remove), command(client, "pause", name), *copies]
    return [on_exit(command(client, "start", name), *remove), command(client, "stop", name), *copies]


def on_exit(*commands: str) -> str:
    """Return a command after which the end of the script runs other commands, until `END`."""
    # With `set -e`, the first command that fails would also end the trap.
    return f"trap {shlex.quote('; '.join(('set +e', *commands)))} EXIT"


def without_volumes(client: str, change: MountChanges) -> list[str]:
    """Return commands that stop the script if a new volume exists: it can be foreign, or have part of the data."""
    return [
        f"{command(client, 'volume', 'inspect', each)} > /dev/null 2>&1 && "
        f"{{ echo {shlex.quote(f'the volume {each} exists: run gateway audit again')} >&2; exit 1; }}"
        for each in new_volumes(change)
    ]


def created_volumes(client: str, change: MountChanges) -> list[str]:
    """Return commands that create the new volumes."""
    return [command(client, "volume", "create", *change.driver_options, each) for each in new_volumes(change)]


def removed_on_failure(client: str, change: MountChanges, new: str = "") -> list[str]:
    """Return a command after which a failure removes the new volumes, and the new container if `new` names one."""
    removal = _removal(client, change, new)
    return [on_exit(*removal)] if removal else []


def started_on_failure(client: str, container: AuditedContainer) -> str:
    """Return a command after which a failure starts the container again, if it ran, and removes nothing."""
    return on_exit(command(client, "start", container.name)) if container.running else END


def saved(client: str, container: AuditedContainer, paths: tuple[str, ...]) -> str:
    """Return a script that saves directories of a container below the shell's current directory, and changes nothing.

    The script pauses the container while it copies the data.

    Args:
        client: The engine's command line client.
        container: The container.
        paths: The directories inside the container.
    """
    lines = [save(client, container, each) for each in paths]
    if not container.running:
        return script(*lines)
    resume = command(client, "unpause", container.name)
    return script(on_exit(resume), command(client, "pause", container.name), *lines)


def is_live(container: AuditedContainer, change: MountChanges) -> bool:
    """Return whether the container's data is lost when the container stops."""
    return container.running and (container.removed or change.vanishes)


def _removal(client: str, change: MountChanges, new: str) -> list[str]:
    container = [command(client, "rm", "-f", "-v", new)] if new else []
    return [*container, *(command(client, "volume", "rm", each) for each in new_volumes(change))]
