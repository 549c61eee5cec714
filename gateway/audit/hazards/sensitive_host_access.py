"""Finds containers that have access to private keys, the engine's socket or system directories.

Also finds containers that cannot write to their mounts. Does no I/O.
"""

import posixpath
import re
from collections.abc import Iterator

from gateway.audit import hazard_rules, private_keys
from gateway.audit.hazards.finding_builders import on_container
from gateway.audit.hazards.host_directories import (
    SOCKET_DIRECTORIES,
    SYSTEM,
    SYSTEM_TREES,
    belongs_to_host,
    below_any,
    is_shared,
)
from gateway.audit.proposed_mount_changes import ProposedMountChanges
from gateway.audit.report import Finding, Severity
from gateway.audit.shell_command_builder import command
from gateway.audit.snapshot_model import AuditedContainer, AuditedMount, AuditSnapshot, ContainerProcessUser
from gateway.audit.storage_behind_mount import StorageBehindMount, as_bind, is_below, store_of
from gateway.text_sanitizer import one_line

_DATA_TREES = ("/dev/shm", "/dev/mqueue", "/dev/hugepages", "/var/lib/docker/volumes/",  # noqa: S108
               "/var/lib/containers/storage/volumes/")  # fmt: skip
"""Directories below `SYSTEM_TREES` with application data. Writable mounts of these directories are not a hazard."""
_MODERATE_TREES = ("/dev/", "/etc/", "/usr/share", "/usr/src", "/usr/local/share", "/usr/local/src")
"""Directories below `SYSTEM_TREES` with few or no programs. Writable mounts of these have medium severity."""
_ENGINE = ("buildkit", "containerd", "containers", "image", "network", "overlay2", "plugins", "runtimes", "swarm")
"""Directories of the engine in its data directory, except those for volumes."""
_HARMLESS = ("/etc/localtime", "/etc/timezone", "/etc/machine-id")
_SOCKETS = re.compile(r"/(docker|podman|containerd|crio)\.sock$")


def find(snapshot: AuditSnapshot) -> Iterator[Finding]:
    """Yield findings about mounts of sensitive files, and about mounts to which the container's user cannot write."""
    containers = snapshot.current_containers
    for container in containers:
        for mount in (as_bind(snapshot, each) for each in container.mounts):
            if mount.kind == "bind" and not container.is_own:
                yield from _bind(snapshot, container, mount)
    for container in containers:
        for mount in container.mounts:
            yield from _not_writable(snapshot, container, mount)


def _bind(snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount) -> Iterator[Finding]:
    without = ProposedMountChanges(dropped=frozenset({mount.path}))
    gives_socket = _SOCKETS.search(mount.source) or mount.source == snapshot.socket
    if gives_socket or mount.source in SOCKET_DIRECTORIES or is_below(snapshot.socket, mount.source):
        what = f"{mount.source} of the host" + ("" if gives_socket else ", which contains the engine's socket")
        yield on_container(snapshot, hazard_rules.ENGINE_SOCKET, Severity.HIGH, container, mount.path, what, without)
    elif mount.writable and _is_system(snapshot, mount.source):
        severity = Severity.MEDIUM if below_any(mount.source, _MODERATE_TREES) else Severity.HIGH
        fix = ProposedMountChanges(read_only=frozenset({mount.path}))
        what = f"{mount.source} of the host, writable"
        yield on_container(snapshot, hazard_rules.WRITABLE_HOST, severity, container, mount.path, what, fix)
    yield from _key(snapshot, container, mount)


def _is_system(snapshot: AuditSnapshot, path: str) -> bool:
    found = snapshot.paths.get(path)
    if path in _HARMLESS or below_any(path, _DATA_TREES):
        return False
    # The engine's data directory can also contain data of applications. Only this directory itself and the engine's
    # own subdirectories count as system directories.
    engine = posixpath.dirname(snapshot.volume_directory)
    if engine and (
        path in (engine, snapshot.volume_directory) or below_any(path, [f"{engine}/{each}" for each in _ENGINE])
    ):
        return True
    # The mount of a device file is harmless, because the engine also restricts access to devices.
    is_device = path != "/dev" and is_below(path, "/dev") and (found is None or found.kind != "directory")
    return path in SYSTEM or (below_any(path, SYSTEM_TREES) and not is_device)


def _key(snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount) -> Iterator[Finding]:
    found = snapshot.paths.get(mount.source)
    named = container.environment.get("SSH_KEY_PATH", "")
    kind = private_keys.by_name(mount.source) or private_keys.by_name(mount.path)
    if named and named == mount.path:
        kind = "SSH key"
    fix: str | ProposedMountChanges = ProposedMountChanges(dropped=frozenset({mount.path}))
    path = mount.source
    if kind is None and found is not None and found.key is not None:
        kind = found.key.kind
        path = posixpath.join(mount.source, found.key.path) if found.key.path else mount.source
        if not found.key.is_alone:
            fix = f"# mount only the files that {container.name} needs, without {one_line(path)}"
    if kind is None:
        return
    severity = Severity.MEDIUM if kind == "SSH key" else Severity.LOW
    what = f"{kind} {path} of the host{'' if mount.writable else ', read-only'}"
    yield on_container(snapshot, hazard_rules.PRIVATE_KEY, severity, container, mount.path, what, fix)


def _not_writable(snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount) -> Iterator[Finding]:
    store = store_of(snapshot, mount)
    found = snapshot.paths.get(store.host_path)
    user = container.user
    if not mount.writable or found is None or found.kind != "directory" or user is None or found.has_acl:
        return
    if may_write(user, found.uid, found.gid, found.mode):
        return
    volume = snapshot.volumes.get(mount.volume)
    is_volume = volume is not None and store.host_path == posixpath.normpath(volume.mountpoint)
    is_empty = found.entries == frozenset()
    # If the directory contains files, the program might write only to subdirectories, or might only read. This is
    # common for volumes. It is also common if the entrypoint switches to an unprivileged user, because such an
    # entrypoint often runs `chown` on subdirectories.
    if (not is_empty and (is_volume or not user.is_configured)) or (
        not is_volume and belongs_to_host(store.host_path)
    ):
        return
    what = f"user {user.uid} cannot write to {store.title} (owner {found.uid}:{found.gid}, mode {found.mode:o})"
    group = min(user.groups, default=user.uid)
    fix = command("chown", "-h", f"{user.uid}:{group}", store.host_path)
    if user.uid == found.uid:
        fix = command("chmod", "u+wx", store.host_path)
    elif is_shared(store.host_path):
        fix = f"# mount a directory below {one_line(store.host_path)} that belongs only to {container.name}"
    elif (not is_empty and found.uid != 0) or _is_used_by_others(snapshot, container, store):
        fix = (
            f"# if {container.name} must write there, give user {user.uid} access, and keep the access of the users"
            " and containers that use the directory now; otherwise, mount it read-only"
        )
    if not store.host_path.isprintable():
        fix = "# the name of the directory contains control characters: no command is safe to print"
    yield on_container(snapshot, hazard_rules.NOT_WRITABLE, Severity.MEDIUM, container, mount.path, what, fix)


def _is_used_by_others(snapshot: AuditSnapshot, container: AuditedContainer, store: StorageBehindMount) -> bool:
    return any(
        store_of(snapshot, mount).identity == store.identity
        for other in snapshot.current_containers
        if other.id != container.id
        for mount in other.mounts
    )


def may_write(user: ContainerProcessUser, uid: int, gid: int, mode: int) -> bool:
    """Return whether a directory's owner, group and permission bits allow a user to create files in it (inode(7))."""
    if user.ignores_permissions:
        return True
    needed = 0o3
    if user.uid == uid:
        return (mode >> 6) & needed == needed
    if gid in user.groups:
        return (mode >> 3) & needed == needed
    return mode & needed == needed
