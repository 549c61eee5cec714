"""Builds shell commands. Quotes arguments, because paths in containers can contain shell syntax. Does no I/O."""

import posixpath
import re
import shlex

from gateway.audit.snapshot_model import AuditedContainer

_HOST_NAME = {"docker": "{{.Name}}", "podman": "{{.Host.Hostname}}"}
"""The `info --format` template for the engine's host name, by command line client."""

KEEP_OWNERS = "-a=false"
"""The `docker cp` option that keeps the owners of files copied into a container. With `-a=true`, the copies would
belong to the container's user."""

COPY_ROOT = "/audit-copy"
"""The new volumes are mounted below this directory of the helper container.

For example, the new volume for the data in `/data` is mounted at `/audit-copy/data`.

To set the owner and mode of a directory, `docker cp` must write to the parent directory. In the new container,
this parent can be read-only or a symbolic link. Therefore, the commands copy the data through a helper container.
"""

NEW_FILES = "set -o noclobber; umask 077"
"""Shell options for redirections: do not overwrite files, and create files that only their owner can read."""


def script(*lines: str) -> str:
    """Return a script that runs commands, and that stops when a command fails."""
    return "\n".join(("bash -euo pipefail <<'FIX'", *lines, "FIX"))


def command(*words: str) -> str:
    """Join words into one shell command. Quote each word if necessary."""
    return shlex.join(words)


def only_on_host(cli: str) -> str:
    """Return a shell command that ends the script with an error if the engine runs on another host.

    Scripts need this command if they use paths that are valid only on the engine's host.
    """
    name = command(cli, "info", "-f", _HOST_NAME[cli])
    message = "echo 'run these commands on the host of the engine' >&2"
    return f'test "$({name})" = "$(uname -n)" || {{ {message}; exit 1; }}'


def copy(cli: str, container: AuditedContainer, helper: str, path: str) -> str:
    """Return commands that copy a directory, with owners and modes, to a volume of a helper container.

    The commands are lines of a script that stops at the first command that fails.

    Args:
        cli: The engine's command line client.
        container: The container to read from.
        helper: The name of the helper container, which mounts the volume below `COPY_ROOT`.
        path: The path of the directory in the container to read from.
    """
    if _is_live_tmpfs(container, path):
        *before, source = _read_tmpfs(cli, container, path)
    else:
        before, source = [], command(cli, "cp", "-a", f"{container.name}:{path}/", "-")
    target = f"{helper}:{COPY_ROOT}{posixpath.dirname(path)}".rstrip("/")
    return "\n".join((*before, f"{source} | {command(cli, 'cp', KEEP_OWNERS, '-', target)}"))


def save(cli: str, container: AuditedContainer, path: str) -> str:
    """Return commands that copy a directory from a container to the shell's current directory.

    The commands are lines of a script that stops at the first command that fails. They overwrite no file.

    Args:
        cli: The engine's command line client.
        container: The container.
        path: The directory inside the container.
    """
    target = f"./{container.name}-{posixpath.basename(path) or 'data'}"
    if _is_live_tmpfs(container, path):
        *before, source = _read_tmpfs(cli, container, path)
        return "\n".join((*before, NEW_FILES, f"{source} > {command(f'{target}.tar')}"))
    message = f"echo {shlex.quote(f'{target} exists: rename it')} >&2"
    return "\n".join((
        f"test ! -e {command(target)} || {{ {message}; exit 1; }}",
        command(cli, "cp", "-a", f"{container.name}:{path}", target),
    ))  # fmt: skip


def _is_live_tmpfs(container: AuditedContainer, path: str) -> bool:
    """Return whether a directory is a mounted tmpfs. `docker cp` cannot read a tmpfs (manual of `docker cp`)."""
    return container.running and any(each.kind == "tmpfs" and each.path == path for each in container.mounts)


def _read_tmpfs(cli: str, container: AuditedContainer, path: str) -> list[str]:
    """Return commands that read a directory through /proc on the host, and write it to stdout as a tar archive."""
    # The paths in the archive begin with the name of the directory, as in an archive of `docker cp`.
    name = re.sub(r"([\\&,])", r"\\\1", posixpath.basename(path))
    return [
        only_on_host(cli),
        f"pid=$({command(cli, 'inspect', '-f', '{{.State.Pid}}', container.name)})",
        f'exec 3< "/proc/$pid/root"{command(path)}',
        # A symbolic link in the container can lead to a directory of the host. Stop if the opened directory is on a
        # mount that the container does not have.
        """mount=$(awk '/^mnt_id:/ {print $2}' /proc/self/fdinfo/3)""",
        'grep -q "^$mount " "/proc/$pid/mountinfo"',
        command("tar", "-c", "-C", "/proc/self/fd/3", "--transform", rf"s,^\.,{name},S", "."),
    ]
