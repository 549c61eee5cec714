"""Writes commands that copy a container's data to another container while nothing changes the data. Does no I/O."""

import shlex

from gateway.audit.model import AuditedContainer
from gateway.audit.mount_options import MountOptionChange
from gateway.audit.shell_commands import command, copy, save, script

END = "trap - EXIT"
"""The command after which a failure runs no further command."""


def frozen(client: str, container: AuditedContainer, change: MountOptionChange, new: str) -> list[str]:
    """Return commands that stop or pause a container, and copy its data to another container.

    The commands are lines of a script that stops at the first command that fails. Until `END`, a failure removes the
    new container, and the old container runs again.

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
    remove, name = [command(client, "rm", "-f", new)] if new else [], container.name
    if not container.running:
        return [*([_on_exit(*remove)] if remove else []), *copies]
    if is_live(container, change):
        return [_on_exit(command(client, "unpause", name), *remove), command(client, "pause", name), *copies]
    return [_on_exit(command(client, "start", name), *remove), command(client, "stop", name), *copies]


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
    return script(_on_exit(resume), command(client, "pause", container.name), *lines)


def is_live(container: AuditedContainer, change: MountOptionChange) -> bool:
    """Return whether the container's data is lost when the container stops."""
    return container.running and (container.removed or change.vanishes)


def _on_exit(*commands: str) -> str:
    return f"trap {shlex.quote('; '.join(commands))} EXIT"
