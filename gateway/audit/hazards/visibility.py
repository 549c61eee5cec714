"""Files that a container does not see: hidden by a mount, or replaced on the host. Pure."""

import posixpath
import shlex
from collections.abc import Iterator

from gateway.audit import rules
from gateway.audit.hazards.finding import on_container
from gateway.audit.model import Container, Finding, Mount, Severity, Snapshot
from gateway.audit.shell import command, script
from gateway.audit.stores import behind, is_below

_HARMLESS = {"/etc/localtime", "/etc/timezone", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
_MOST_NAMES = 5


def find(snapshot: Snapshot) -> Iterator[Finding]:
    """Yield these hazards."""
    for container in snapshot.containers:
        for mount in container.mounts:
            if mount.hides:
                yield _hides(snapshot, container, mount)
            if mount.kind == "bind" and mount.path not in _HARMLESS:
                yield from _single_file(snapshot, container, mount)


def _hides(snapshot: Snapshot, container: Container, mount: Mount) -> Finding:
    names = ", ".join(mount.hides[:_MOST_NAMES])
    more = f" and {len(mount.hides) - _MOST_NAMES} more" if len(mount.hides) > _MOST_NAMES else ""
    store = behind(snapshot, mount)
    what = f"{store.title} hides {names}{more} of {container.image}"
    severity = Severity.MEDIUM if _has_program(container, mount.path) else Severity.LOW
    client, helper = snapshot.client, f"{container.name}-image"
    where = store.host_path
    if not where:
        fix = f"# mount {store.title} at another path than {mount.path}, which has files of {container.image}"
        return on_container(snapshot, rules.HIDES, severity, container, mount.path, what, fix)
    copy = command(client, "cp", "-a", f"{helper}:{mount.path}/.", "-")
    fix = script(
        command(client, "create", "--name", helper, container.image, "none"),
        f"{copy} | tar -x --skip-old-files -C {shlex.quote(where)}",
        command(client, "rm", helper),
    )
    return on_container(snapshot, rules.HIDES, severity, container, mount.path, what, fix)


def _has_program(container: Container, path: str) -> bool:
    """Return whether the image starts a program, or works, below a path."""
    config = container.defaults
    words = (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()), config.get("WorkingDir") or "")
    return any(is_below(str(each), path) for each in words)


def _single_file(snapshot: Snapshot, container: Container, mount: Mount) -> Iterator[Finding]:
    found = snapshot.paths.get(mount.source)
    is_file = found.kind == "file" if found is not None else posixpath.splitext(mount.source)[1] in _SUFFIXES
    if mount.is_stale:
        what = f"{mount.source} was replaced on the host; {container.name} still has the old one"
        fix = command(snapshot.client, "restart", container.name)
        yield on_container(snapshot, rules.SINGLE_FILE, Severity.MEDIUM, container, mount.path, what, fix)
    elif is_file:
        what = f"the file {mount.source}"
        fix = "\n".join((
            f"# after each change of {mount.source}; or mount a directory that has only this file",
            command(snapshot.client, "restart", container.name),
        ))  # fmt: skip
        yield on_container(snapshot, rules.SINGLE_FILE, Severity.LOW, container, mount.path, what, fix)


_SUFFIXES = {".cfg", ".cnf", ".conf", ".crt", ".db", ".env", ".ini", ".json", ".key", ".ovpn", ".pem", ".sqlite",
             ".toml",             ".txt", ".xml", ".yaml", ".yml"}  # fmt: skip
"""Suffixes by which a mount is taken for a file if the host's files cannot be read."""
