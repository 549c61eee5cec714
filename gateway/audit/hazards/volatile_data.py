"""Finds data that can be lost, because it is in a writable layer, an anonymous volume or memory. Does no I/O."""

import posixpath
import re
from collections.abc import Iterator

from gateway.audit import database_files, hazard_rules, layer_data
from gateway.audit.container_recreate_commands import volume_for
from gateway.audit.data_copy_commands import saved
from gateway.audit.hazards.finding_builders import database_in, mounts, on_container
from gateway.audit.proposed_mount_changes import ProposedMountChanges
from gateway.audit.report import Finding, Severity
from gateway.audit.shell_command_builder import NEW_FILES, command, only_on_host, script
from gateway.audit.snapshot_model import AuditedContainer, AuditedMount, AuditSnapshot
from gateway.audit.storage_behind_mount import StorageBehindMount, StorageMedium, is_below, memory_of_engine
from gateway.audit.storage_locations import EMPTIED_AT_BOOT, VOLATILE
from gateway.text_sanitizer import format_bytes, one_line

_SMALL = 1 << 20
"""The minimum size, in bytes, at which the audit reports a writable layer without database files. Smaller layers
usually contain only log files."""
_SHARED = {"/app", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/src/app", "/var", "/var/lib", "/var/log",  # noqa: S108
           "/var/run"}  # fmt: skip
"""Directories that must not be moved to a volume: they contain files of the image, or programs expect them to be
empty."""
_PROGRAMS = re.compile(r"/(?:bin|sbin|lib(?:32|64|x32|exec)?|boot|etc|usr(?!/src/))(?:/|$)")
"""Matches directories for programs, libraries and settings, except `/usr/src/…`. They must not be moved to a volume,
because the container would then not get the files of newer images."""


def find(snapshot: AuditSnapshot) -> Iterator[Finding]:
    """Yield findings about data that is lost when a container is removed, or when the container or the host stops."""
    yield from _engine_in_memory(snapshot)
    for container in snapshot.current_containers:
        yield from _layer(snapshot, container)
        yield from _shared_memory(snapshot, container)
    for container, mount, store in mounts(snapshot):
        volume = snapshot.volumes.get(mount.volume)
        if store.medium is StorageMedium.MEMORY:
            yield from _memory(snapshot, container, mount, store)
        elif volume is not None and volume.anonymous and not store.medium.is_network:
            yield from _anonymous(snapshot, container, mount, store)
        elif mount.kind == "bind":
            yield from _emptied_at_boot(snapshot, container, mount)


def _layer(snapshot: AuditSnapshot, container: AuditedContainer) -> Iterator[Finding]:
    database, directory = layer_data.find(container.changes or {}, [each.path for each in container.mounts])
    if database:
        what = f"{database} files in {directory}, {format_bytes(container.layer)} in the layer"
        fix = _move(snapshot, container, directory)
        yield on_container(snapshot, hazard_rules.LAYER_DATABASE, Severity.HIGH, container, directory, what, fix)
    elif container.layer >= _SMALL and (directory or container.changes is None):
        what = f"{format_bytes(container.layer)} in the layer" + (f", in {directory}" if directory else "")
        fix = _move(snapshot, container, directory or "/")
        path = directory or "/"
        yield on_container(snapshot, hazard_rules.LAYER_DATA, Severity.MEDIUM, container, path, what, fix)


def _move(snapshot: AuditSnapshot, container: AuditedContainer, directory: str) -> str | ProposedMountChanges:
    """Return the fix that moves a directory to a volume: the changes to the mounts, or manual steps as text."""
    if not directory.isprintable():
        return "# the name of the directory contains control characters: no command is safe to print"
    if directory == "/":
        shown = command(snapshot.cli, "diff", container.name)
        then = f"# then configure {container.name} to store its data in one directory, and mount a volume there"
        return f"{shown}  # shows the files\n{then}"
    if _has_programs(container, directory):
        then = (
            f"# then configure {container.name} to store the data in a separate directory, and mount a volume there"
        )
        return f"{saved(snapshot.cli, container, (directory,))}\n{then}"
    return ProposedMountChanges({directory: volume_for(snapshot, container, directory)}, copied=(directory,))


def _has_programs(container: AuditedContainer, directory: str) -> bool:
    """Return whether a directory contains files of the image, such as programs, or possibly contains them."""
    work = (container.inspection.get("Config") or {}).get("WorkingDir")
    if directory in _SHARED or directory == work:
        return True
    data = container.environment.get("PGDATA", "")
    if database_files.at(directory, container.image, "") or (data and is_below(directory, data)):
        return False
    return container.image_has_layer_directory or _PROGRAMS.match(directory) is not None


def _anonymous(
    snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount, store: StorageBehindMount
) -> Iterator[Finding]:
    database = database_in(snapshot, container, mount, store)
    size = snapshot.volumes[mount.volume].size
    content = "data" if size is None else format_bytes(size)
    content = f"{database} files, {content}," if database else content
    what = f"{content} in the anonymous volume {mount.volume[:12]}"
    fix = ProposedMountChanges({mount.path: volume_for(snapshot, container, mount.path)}, copied=(mount.path,))
    severity = Severity.HIGH if database else (Severity.LOW if size == 0 else Severity.MEDIUM)
    rule = hazard_rules.ANONYMOUS
    if container.removed:
        rule, severity = hazard_rules.REMOVED, Severity.LOW if size == 0 and not database else Severity.HIGH
        what = f"{what}, which --rm removes"
    yield on_container(snapshot, rule, severity, container, mount.path, what, fix)


def _memory(
    snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount, store: StorageBehindMount
) -> Iterator[Finding]:
    database = database_in(snapshot, container, mount, store)
    if not mount.writable or (not database and any(is_below(mount.path, each) for each in VOLATILE)):
        return
    if mount.kind == "bind" and not _is_directory(snapshot, mount):
        return
    where = "a tmpfs" if mount.kind == "tmpfs" else store.title
    what = f"{f'{database} files' if database else 'data'} in {where}"
    fix = ProposedMountChanges(
        {mount.path: volume_for(snapshot, container, mount.path)}, copied=(mount.path,), vanishes=mount.kind != "bind"
    )
    severity = Severity.HIGH if database else Severity.MEDIUM
    yield on_container(snapshot, hazard_rules.MEMORY, severity, container, mount.path, what, fix)


def _engine_in_memory(snapshot: AuditSnapshot) -> Iterator[Finding]:
    above = memory_of_engine(snapshot)
    if above is not None:
        path = posixpath.dirname(snapshot.volume_directory)
        key = "data-root in daemon.json" if snapshot.cli == "docker" else "graphroot in storage.conf"
        what = f"the engine's data directory is in memory ({above.file_system} at {above.point})"
        fix = f"# stop the engine, copy {one_line(path)} to a disk, and set {key} to the copy"
        yield Finding(hazard_rules.MEMORY, Severity.MEDIUM, "engine", one_line(path), one_line(what), fix)


def _shared_memory(snapshot: AuditSnapshot, container: AuditedContainer) -> Iterator[Finding]:
    if container.shared_memory:
        pid = f"$({command(snapshot.cli, 'inspect', '-f', '{{.State.Pid}}', container.name)})"
        save = f'tar -c -C "/proc/{pid}/root/dev/shm" . > {command(f"{container.name}-shm.tar")}'
        fix = f"""{script(only_on_host(snapshot.cli), NEW_FILES, save)}
# then configure {container.name} to store the data in a separate directory, and mount a volume there"""
        what = f"{container.shared_memory} files in /dev/shm"
        yield on_container(snapshot, hazard_rules.MEMORY, Severity.HIGH, container, "/dev/shm", what, fix)  # noqa: S108


def _emptied_at_boot(snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount) -> Iterator[Finding]:
    """Yield a finding for a bind mount below a directory that the host may clear at boot, such as /tmp."""
    if (
        mount.writable
        and any(is_below(mount.source, each) for each in EMPTIED_AT_BOOT)
        and _is_directory(snapshot, mount)
    ):
        what = f"data in {mount.source}, which the host may clear at the next boot"
        fix = ProposedMountChanges({mount.path: volume_for(snapshot, container, mount.path)}, copied=(mount.path,))
        yield on_container(snapshot, hazard_rules.MEMORY, Severity.MEDIUM, container, mount.path, what, fix)


def _is_directory(snapshot: AuditSnapshot, mount: AuditedMount) -> bool:
    """Return whether a bind mount is a directory for data.

    Return false for files, directories that contain only sockets, and directories such as /tmp itself. A path that
    the snapshot does not describe counts as a directory, unless its name ends with `.sock`, `.pid` or `.lock`.
    """
    found = snapshot.paths.get(mount.source)
    if mount.source in EMPTIED_AT_BOOT or mount.source.endswith((".sock", ".pid", ".lock")):
        return False
    if found is None or found.kind != "directory":
        return found is None
    return not found.entries or not all(each.endswith(".sock") for each in found.entries)
