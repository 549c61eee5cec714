"""Finds what containers can access on the host: private keys, engine socket, system directories. Does no I/O."""

import re
from collections.abc import Iterator

from gateway.audit import rules
from gateway.audit.hazards.finding import on_container
from gateway.audit.model import AuditedContainer, AuditedMount, AuditSnapshot, ContainerUser
from gateway.audit.mount_options import MountOptionChange
from gateway.audit.mount_storage import is_below, store_of
from gateway.audit.report import Finding, Severity
from gateway.audit.shell_commands import command

_SSH_KEY = re.compile(
    r"(^|/)(id_(rsa|dsa|ecdsa|ed25519)(_sk)?|ssh_host_\w+_key|[\w.-]*private[_-]?key[\w.-]*|[\w.-]*ssh[_-]?key[\w.-]*|"
    r"[\w.-]+\.ppk|\.ssh)$|/\.ssh/(?!known_hosts|config|authorized_keys)"
)
_TLS_KEY = re.compile(r"\.key$|(^|[/_-])(priv)?key\.pem$")
_SYSTEM = ("/", "/bin", "/boot", "/etc", "/lib", "/lib64", "/root", "/sbin", "/usr", "/var", "/var/lib", "/home")
_SYSTEM_TREES = ("/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/sbin", "/sys", "/usr")
_HARMLESS = ("/etc/localtime", "/etc/timezone", "/etc/machine-id")
_SOCKETS = re.compile(r"/(docker|podman|containerd|crio)\.sock$")
_SOCKET_DIRECTORIES = ("/", "/run", "/var/run", "/var")


def find(snapshot: AuditSnapshot) -> Iterator[Finding]:
    """Yield the hazards that result from a container's access to the host."""
    for container in snapshot.containers:
        for mount in container.mounts:
            if mount.kind == "bind" and not container.is_own:
                yield from _bind(snapshot, container, mount)
    for container in snapshot.containers:
        for mount in container.mounts:
            yield from _not_writable(snapshot, container, mount)


def _bind(snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount) -> Iterator[Finding]:
    without = MountOptionChange(dropped=frozenset({mount.path}))
    gives_socket = _SOCKETS.search(mount.source) or mount.source == snapshot.socket
    if gives_socket or mount.source in _SOCKET_DIRECTORIES or is_below(snapshot.socket, mount.source):
        what = f"{mount.source} of the host" + ("" if gives_socket else ", which has the engine's socket")
        yield on_container(snapshot, rules.ENGINE_SOCKET, Severity.HIGH, container, mount.path, what, without)
    elif mount.writable and _is_system(mount.source):
        severity = Severity.MEDIUM if is_below(mount.source, "/etc/") else Severity.HIGH
        fix = MountOptionChange(read_only=frozenset({mount.path}))
        what = f"{mount.source} of the host, writable"
        yield on_container(snapshot, rules.WRITABLE_HOST, severity, container, mount.path, what, fix)
    yield from _key(snapshot, container, mount)


def _is_system(path: str) -> bool:
    return path in _SYSTEM or (is_below(path, "/etc") and path not in _HARMLESS)


def _key(snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount) -> Iterator[Finding]:
    paths = (mount.source, mount.path)
    named = container.environment.get("SSH_KEY_PATH", "")
    if any(_SSH_KEY.search(each) for each in paths) or (named and named == mount.path):
        severity, kind = Severity.MEDIUM, "SSH key"
    elif any(_TLS_KEY.search(each) for each in paths):
        severity, kind = Severity.LOW, "TLS key"
    else:
        return
    mode = "" if mount.writable else ", read-only"
    what = f"{kind} {mount.source} of the host{mode}"
    fix = MountOptionChange(dropped=frozenset({mount.path}))
    yield on_container(snapshot, rules.PRIVATE_KEY, severity, container, mount.path, what, fix)


def _not_writable(snapshot: AuditSnapshot, container: AuditedContainer, mount: AuditedMount) -> Iterator[Finding]:
    store = store_of(snapshot, mount)
    found = snapshot.paths.get(store.host_path)
    user = container.user
    if not mount.writable or found is None or found.kind != "directory" or user is None or found.has_acl:
        return
    if may_write(user, found.uid, found.gid, found.mode) or _belongs_to_host(store.host_path):
        return
    what = f"user {user.uid} cannot write to {store.title} (owner {found.uid}:{found.gid}, mode {found.mode:o})"
    group = min(user.groups, default=user.uid)
    fix = command("chown", "-h", f"{user.uid}:{group}", store.host_path)
    if not store.host_path.isprintable():
        fix = "# the name of the directory has control characters: no command is safe to print"
    yield on_container(snapshot, rules.NOT_WRITABLE, Severity.MEDIUM, container, mount.path, what, fix)


def _belongs_to_host(path: str) -> bool:
    """Return whether a directory belongs to the host's operating system. A fix must not change its owner."""
    return path in (*_SYSTEM, *_SOCKET_DIRECTORIES) or any(is_below(path, each) for each in _SYSTEM_TREES)


def may_write(user: ContainerUser, uid: int, gid: int, mode: int) -> bool:
    """Return whether a directory's owner, group and permission bits allow a user to create files in it (inode(7))."""
    if user.uid == 0:
        return True
    needed = 0o3
    if user.uid == uid:
        return (mode >> 6) & needed == needed
    if gid in user.groups:
        return (mode >> 3) & needed == needed
    return mode & needed == needed
