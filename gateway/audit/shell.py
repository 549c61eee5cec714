"""Commands for a shell, from words that may come from containers. Pure."""

import shlex

from gateway.audit.model import Container


def script(*lines: str) -> str:
    """Return commands that stop at the first one that fails."""
    return "\n".join(("bash -euo pipefail <<'FIX'", *lines, "FIX"))


def command(*words: str) -> str:
    """Return a command with its words quoted for a shell."""
    return shlex.join(words)


def copy(client: str, container: Container, new: str, path: str) -> str:
    """Return commands that copy the content of a directory between two containers, with owners and modes.

    They are lines of a script that stops at the first command that fails.

    Args:
        client: The engine's command line client.
        container: The container that has it.
        new: The container that gets it.
        path: The directory, in both.
    """
    if container.running and any(each.kind == "tmpfs" and each.path == path for each in container.mounts):
        # `docker cp` does not see a tmpfs (docker container cp, "Corner cases"); the host's /proc does.
        # A link of the container can point to the host's files, whose mount is not in the container's mount table.
        lines = (
            f"pid=$({command(client, 'inspect', '-f', '{{.State.Pid}}', container.name)})",
            f'exec 3< "/proc/$pid/root"{command(path)}',
            """mount=$(awk '/^mnt_id:/ {print $2}' /proc/self/fdinfo/3)""",
            'grep -q "^$mount " "/proc/$pid/mountinfo"',
            "tar -c -C /proc/self/fd/3 .",
        )
        *before, source = lines
    else:
        before, source = [], command(client, "cp", "-a", f"{container.name}:{path}/.", "-")
    return "\n".join((*before, f"{source} | {command(client, 'cp', '-a', '-', f'{new}:{path}')}"))
