"""Finds mounts that hide files of an image, and bind mounts of single files. Does no I/O.

If a mounted file is replaced on the host, the container still uses the old file.
"""

import posixpath
from collections.abc import Iterator

from gateway.audit import hazard_rules
from gateway.audit.data_copy_commands import on_exit
from gateway.audit.hazards.finding_builders import on_container
from gateway.audit.hazards.host_directories import belongs_to_host
from gateway.audit.report import Finding, Severity
from gateway.audit.shell_command_builder import KEEP_OWNERS, command, script
from gateway.audit.snapshot_model import AuditedContainer, AuditedMount, AuditSnapshot
from gateway.audit.storage_behind_mount import is_below, store_of
from gateway.text_sanitizer import one_line

_HARMLESS = {"/etc/localtime", "/etc/timezone", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
_MOST_NAMES = 5


def find(snapshot: AuditSnapshot) -> Iterator[Finding]:
    """Yield a finding for each mount that hides files, and for each bind mount of a single file.

    Bind mounts at the paths in `_HARMLESS` are not reported as single files.
    """
    for container in snapshot.current_containers:
        for mount in container.mounts:
            if mount.hides:
                yield _hides(snapshot, container, mount)
            if mount.kind == "bind" and mount.path not in _HARMLESS:
                yield from _single_file(snapshot, container, mount)


def _hides(snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount) -> Finding:
    names = ", ".join(mount.hides[:_MOST_NAMES])
    more = f" and {len(mount.hides) - _MOST_NAMES} more" if len(mount.hides) > _MOST_NAMES else ""
    store = store_of(snapshot, mount)
    what = f"{store.title} hides {names}{more} of {container.image}"
    severity = Severity.MEDIUM if _has_program(container, mount.path) else Severity.LOW
    fix = _copy_missing(snapshot.cli, container, mount, store.title)
    return on_container(snapshot, hazard_rules.HIDES, severity, container, mount.path, what, fix)


def _copy_missing(cli: str, container: AuditedContainer, mount: AuditedMount, title: str) -> str:
    """Return commands that copy the hidden files of the image into the mounted directory.

    The commands write through a container, so that symbolic links cannot lead to other files of the host.
    """
    source = mount.volume or mount.source
    image, path = container.exact_image, mount.path
    # The files of an image must not become part of the host's operating system, for example as CA certificates.
    if not source or not mount.writable or (mount.kind == "bind" and belongs_to_host(mount.source)):
        return f"# mount {one_line(title)} at a path other than {one_line(path)}, where {one_line(image)} has files"
    if not all(each.isprintable() for each in (source, image, path, *mount.hides)):
        return "# a name contains control characters: no command is safe to print"
    original, changed = f"{container.name}-image", f"{container.name}-copy"
    copies = (
        f"{command(cli, 'cp', '-a', f'{original}:{posixpath.join(path, name)}', '-')} | "
        f"{command(cli, 'cp', KEEP_OWNERS, '-', f'{changed}:{path}')}"
        for name in mount.hides
    )
    return script(
        command(cli, "create", "--name", original, image, "none"),
        on_exit(command(cli, "rm", "-v", original)),
        command(cli, "create", "--name", changed, "-v", f"{source}:{path}", image, "none"),
        on_exit(command(cli, "rm", "-v", original, changed)),
        *copies,
    )


def _has_program(container: AuditedContainer, path: str) -> bool:
    """Return whether a directory contains the program or working directory of the image, or a file in its command."""
    config = container.defaults
    words = (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()), config.get("WorkingDir") or "")
    return any(is_below(str(each), path) for each in words)


def _single_file(snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount) -> Iterator[Finding]:
    found = snapshot.paths.get(mount.source)
    is_file = found.kind == "file" if found is not None else posixpath.splitext(mount.source)[1] in _SUFFIXES
    if mount.is_stale:
        what = f"{mount.source} was replaced on the host; {container.name} still uses the old file"
        fix = command(snapshot.cli, "restart", container.name)
        yield on_container(snapshot, hazard_rules.SINGLE_FILE, Severity.MEDIUM, container, mount.path, what, fix)
    elif is_file:
        what = f"the file {mount.source}"
        fix = "\n".join((
            f"# run this after each change of {mount.source}, or mount a directory that contains only this file",
            command(snapshot.cli, "restart", container.name),
        ))  # fmt: skip
        yield on_container(snapshot, hazard_rules.SINGLE_FILE, Severity.LOW, container, mount.path, what, fix)


_SUFFIXES = {".cfg", ".cnf", ".conf", ".crt", ".db", ".env", ".ini", ".json", ".key", ".ovpn", ".pem", ".sqlite",
             ".toml", ".txt", ".xml", ".yaml", ".yml"}  # fmt: skip
"""A mount's source with one of these suffixes counts as a file if the audit cannot read the source on the host."""
