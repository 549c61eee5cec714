"""Writes commands that change the mounts of a Compose container with an override file. Does no I/O."""

import posixpath
import shlex
from collections.abc import Iterable

from gateway.audit.model import AuditedContainer
from gateway.audit.mount_options import MountOptionChange, short_mounts, unmounted_paths
from gateway.audit.shell import command, copy, script

PROJECT, SERVICE = "com.docker.compose.project", "com.docker.compose.service"
FILES = "com.docker.compose.project.config_files"


def override(container: AuditedContainer, change: MountOptionChange, client: str) -> str:
    """Return commands that write an override file and recreate the container with the changed mounts.

    Args:
        container: A container that has the labels of Compose.
        change: How the mounts change.
        client: The engine's command line client.
    """
    labels = container.labels
    project, service, files = labels[PROJECT], labels[SERVICE], labels[FILES].split(",")
    path = posixpath.join(posixpath.dirname(files[0]), f"{service}.audit.yaml")
    write = "\n".join((f"cat > {shlex.quote(path)} <<'YAML'", *_lines(container, change, service), "YAML"))
    arguments = [argument for file in (*files, path) for argument in ("-f", file)]
    created = [command(client, "volume", "create", each) for each in _new_volumes(change)]
    up = command(client, "compose", "-p", project, *arguments, "up", "-d", "--no-deps", service)
    return "\n".join((
        script(*created, *_copies(container, change, client), write, up),
        f"# then move the lines of {path} to {files[0]}",
    ))  # fmt: skip


def _new_volumes(change: MountOptionChange) -> list[str]:
    return sorted({each for each in change.mounts.values() if not each.startswith("/")})


def _lines(container: AuditedContainer, change: MountOptionChange, service: str) -> list[str]:
    left = {each.path for each in container.mounts} - unmounted_paths(change)
    tmpfs = [each.path for each in container.mounts if each.kind == "tmpfs"]
    lines = ["services:", f"  {_quote(service)}:", *_list("volumes", short_mounts(container, change))]
    if tmpfs:
        lines += _list("tmpfs", (each for each in tmpfs if each in left))
    used = {each.volume for each in container.mounts if each.volume and each.path in left}
    named = sorted({*_new_volumes(change), *used})
    return [*lines, *(["volumes:", *(f"  {_quote(each)}: {{external: true}}" for each in named)] if named else [])]


def _list(key: str, values: Iterable[str]) -> list[str]:
    items = [f"      - {_quote(each)}" for each in values]
    return [f"    {key}: !override", *items] if items else [f"    {key}: !override []"]


def _copies(container: AuditedContainer, change: MountOptionChange, client: str) -> list[str]:
    if not change.copied:
        return []
    helper = f"{container.name}-copy"
    mounts = [argument for path in change.copied for argument in ("-v", f"{change.mounts[path]}:{path}")]
    # Compose removes the container and its data in memory. The commands pause the container while they copy the data.
    return [
        *([command(client, "pause", container.name)] if container.running else []),
        command(client, "create", "--name", helper, *mounts, container.image, "none"),
        *(copy(client, container, helper, path) for path in change.copied),
        command(client, "rm", helper),
        *([command(client, "unpause", container.name)] if container.running else []),
    ]


def _quote(text: str) -> str:
    """Return a text as a YAML scalar with doubled dollars, because Compose expands variables after a single one."""
    return "'" + text.replace("'", "''").replace("$", "$$") + "'"
