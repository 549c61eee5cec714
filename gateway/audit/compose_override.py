"""Writes commands that use an override file to change the mounts of a Compose container. Does no I/O."""

import posixpath
import shlex
from collections.abc import Iterable

from gateway.audit.data_copy_commands import (
    END,
    copy_commands,
    helper_creation_commands,
    is_live,
    remove_on_failure,
    require_absent_volumes,
    start_on_failure,
    volume_creation_commands,
)
from gateway.audit.errors import UnsupportedContainerSettingError
from gateway.audit.proposed_mount_changes import (
    ProposedMountChanges,
    needs_long_syntax,
    new_volumes,
    possible_secret_paths,
    short_mounts,
    tmpfs_options,
    unmounted_paths,
)
from gateway.audit.shell_command_builder import command, script
from gateway.audit.snapshot_model import AuditedContainer, AuditSnapshot
from gateway.docker.compose_command_line import FILES, compose_command
from gateway.docker.grants import PROJECT, SERVICE


def override(snapshot: AuditSnapshot, container: AuditedContainer, change: ProposedMountChanges) -> str:
    """Return commands that write a Compose override file, and recreate the container with the changed mounts.

    Compose removes the old container, so the commands first save its writable layer as an image.

    Args:
        snapshot: The snapshot.
        container: A container that has the labels of Compose.
        change: The changes to the mounts.

    Raises:
        UnsupportedContainerSettingError: Compose would also change the image or the other containers of the service,
            or an override file cannot express the options of a mount.
    """
    replicas = [each for each in snapshot.containers if container.service and each.service == container.service]
    if len(replicas) > 1:
        raise UnsupportedContainerSettingError(
            f"Compose would replace all {len(replicas)} containers of {container.service}"
        )
    if needs_long_syntax(container):
        raise UnsupportedContainerSettingError("a mount has options that an override file cannot express")
    if container.exact_image != container.image:
        raise UnsupportedContainerSettingError(
            f"Compose may use another image, because the name {container.image} now refers to a different image"
        )
    labels, name, cli = container.labels, container.name, snapshot.cli
    service, first = labels[SERVICE], labels[FILES].partition(",")[0]
    path = posixpath.join(posixpath.dirname(first), f"{labels[PROJECT]}.{service}.audit.yaml")
    overridden = path in labels[FILES].split(",")
    content = _lines(container, change, service, overridden=overridden)
    write = "\n".join((f"cat > {shlex.quote(path)} <<'YAML'", *content, "YAML"))
    compose = compose_command(labels, cli=cli, overrides=() if overridden else (path,))
    lines = [*require_absent_volumes(cli, change), *change.setup, write, command(*compose, "config", "--quiet")]
    lines += [*volume_creation_commands(cli, change), *remove_on_failure(cli, change)]
    helper = f"{name}-copy"
    lines += [
        *helper_creation_commands(cli, container, change, helper),
        *copy_commands(cli, container, change, helper),
    ]
    lines += [END, command(cli, "kill", name)] if is_live(container, change) else []
    saved = f"before-audit:{name}"
    lines.append(command(cli, "commit", name, saved))
    # If the script fails, the current trap removes the new volume. Remove or replace this trap before Compose removes
    # the old container, because the new volume can then contain the only copy of the data.
    lines.append(END if is_live(container, change) else start_on_failure(cli, container))
    start = "--detach" if container.running else "--no-start"
    same_image = ("--no-build", "--pull", "never")
    lines += [command(*compose, "up", start, "--no-deps", *same_image, service), END]
    return "\n".join((
        script(*lines),
        f"# when {name} works: {command(cli, 'rmi', saved)}",
        f"# then move the lines of {path} to {first}",
    ))  # fmt: skip


def _lines(container: AuditedContainer, change: ProposedMountChanges, service: str, *, overridden: bool) -> list[str]:
    left = {each.path for each in container.mounts} - unmounted_paths(change)
    tmpfs = [each.path for each in container.mounts if each.kind == "tmpfs"]
    lines = ["services:", f"  {_quote(service)}:", *_list("volumes", short_mounts(container, change))]
    if tmpfs:
        given = tmpfs_options(container)
        lines += _list("tmpfs", (f"{each}{given.get(each, '')}" for each in tmpfs if each in left))
    if possible_secret_paths(container, overridden=overridden) & unmounted_paths(change):
        # An override file cannot remove a single entry of `secrets` or `configs`. Therefore, clear both lists. The
        # list `volumes` then mounts the entries that must remain.
        lines += [*_list("secrets", ()), *_list("configs", ())]
    used = {each.volume for each in container.mounts if each.volume and each.path in left}
    named = sorted({*new_volumes(change), *used})
    return [*lines, *(["volumes:", *(f"  {_quote(each)}: {{external: true}}" for each in named)] if named else [])]


def _list(key: str, values: Iterable[str]) -> list[str]:
    items = [f"      - {_quote(each)}" for each in values]
    return [f"    {key}: !override", *items] if items else [f"    {key}: !override []"]


def _quote(text: str) -> str:
    """Return a string as a YAML scalar. Double each dollar sign, because Compose expands `$NAME`."""
    return "'" + text.replace("'", "''").replace("$", "$$") + "'"
