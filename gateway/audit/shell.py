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
    """Return a command that copies the content of a directory between two containers, with owners and modes.

    Args:
        client: The engine's command line client.
        container: The container that has it.
        new: The container that gets it.
        path: The directory, in both.
    """
    if container.running and any(each.kind == "tmpfs" and each.path == path for each in container.mounts):
        # `docker cp` does not see a tmpfs (docker container cp, "Corner cases"); the host's /proc does.
        pid = f"$({command(client, 'inspect', '-f', '{{.State.Pid}}', container.name)})"
        source = f'tar -c -C "/proc/{pid}/root"{command(path)} .'
    else:
        source = command(client, "cp", "-a", f"{container.name}:{path}/.", "-")
    return f"{source} | {command(client, 'cp', '-a', '-', f'{new}:{path}')}"
