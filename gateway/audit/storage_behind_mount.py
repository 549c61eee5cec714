"""Determines which storage holds the data of a mount, such as a local disk, memory, or a server. Does no I/O."""

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache

from gateway.audit.host_filesystem_model import HostMount
from gateway.audit.snapshot_model import AuditedMount, AuditedVolume, AuditSnapshot
from gateway.backends import kind_of_file_system


class StorageMedium(StrEnum):
    """The kinds of storage, such as a local disk, memory, or a server."""

    LOCAL = "local"
    MEMORY = "memory"
    NFS = "NFS"
    SMB = "SMB"
    FUSE = "FUSE"
    NETWORK = "another network file system"
    DRIVER = "a volume driver"

    @property
    def is_network(self) -> bool:
        """Whether a server, or a program in user space (FUSE), provides the data."""
        return self in (StorageMedium.NFS, StorageMedium.SMB, StorageMedium.FUSE, StorageMedium.NETWORK)


@dataclass(frozen=True)
class StorageBehindMount:
    """The storage behind a mount or a volume.

    Args:
        medium: The kind of storage.
        title: The name of the storage, for messages.
        identity: A string that identifies the data. Two mounts of the same data have the same identity.
        options: The mount options of a network file system; empty for other storage.
        host_path: The path on the engine's host; empty if there is no such path.
        host_mount: The host's network or memory mount that contains `host_path`; None if there is no such mount.
        file_system: The type of a network file system, such as `nfs4`.
        device: The source of a network mount, such as `server:/export`; empty for other storage.
    """

    medium: StorageMedium
    title: str
    identity: str
    options: Mapping[str, str] = field(default_factory=dict)
    host_path: str = ""
    host_mount: HostMount | None = None
    file_system: str = ""
    device: str = ""


_MEMORY = ("tmpfs", "ramfs")
_OTHER_NETWORK = {"ceph", "9p", "afs", "lustre", "beegfs", "glusterfs", "gpfs", "coda", "autofs"}
_LOCAL_FUSE = {"fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.ntfs-3g", "fuse.mergerfs", "fusectl"}
"""File systems in user space that store data on local disks."""
_FUSE_DRIVERS = re.compile(r"rclone|s3|sshfs|fuse|gcs|azureblob")
SECRETS = frozenset({"password", "pass", "passwd", "password2"})
"""Mount options whose value is a password (mount.cifs(8))."""
_KINDS = {"nfs": StorageMedium.NFS, "smb": StorageMedium.SMB}


@cache
def medium_of(file_system: str) -> StorageMedium:
    """Return the kind of storage that a file system uses. `file_system` is a type, as for `mount -t`."""
    if file_system in _MEMORY:
        return StorageMedium.MEMORY
    kind = kind_of_file_system(file_system)
    if kind is not None:
        return _KINDS.get(kind.name, StorageMedium.NETWORK)
    if (file_system == "fuse" or file_system.startswith("fuse.")) and file_system not in _LOCAL_FUSE:
        return StorageMedium.FUSE
    return StorageMedium.NETWORK if file_system in _OTHER_NETWORK else StorageMedium.LOCAL


def split_options(text: str) -> dict[str, str]:
    """Parse mount options into a dict of names and values. The value of an option without `=` is an empty string."""
    return dict(part.strip().partition("=")[::2] for part in text.split(",") if part.strip())


def nfs_version(store: StorageBehindMount) -> str:
    """Return the version of an NFS mount, such as `4.2`; empty if not known.

    If the version is 4 and the options contain no minor version, the result depends on the mount:

    - `4` for a mount on the host, because mount.nfs(8) negotiates the minor version.
    - `4.0` for a volume, because the engine mounts volumes without mount.nfs(8).
    """
    options = store.options
    short = (each.removeprefix("v") for each in ("v2", "v3", "v4", "v4.0", "v4.1", "v4.2") if each in options)
    default = "4" if store.file_system == "nfs4" else ""
    version = options.get("nfsvers") or options.get("vers") or next(short, default)
    if version != "4":
        return version
    minor = options.get("minorversion", "" if store.host_mount is not None else "0")
    return f"4.{minor}" if minor else version


def mount_above(mounts_by_point: Mapping[str, HostMount], path: str) -> HostMount | None:
    """Return the mount of the host that contains a path; None if it is not known.

    Args:
        mounts_by_point: The mount table. The keys are the mount points.
        path: An absolute path without symbolic links.
    """
    while path not in mounts_by_point:
        if path == (parent := posixpath.dirname(path)):
            return None
        path = parent
    return mounts_by_point[path]


def is_below(path: str, directory: str) -> bool:
    """Return whether a path equals `directory`, or is below it."""
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def bound_directory(volume: AuditedVolume) -> str:
    """Return the host's directory that a volume with the option `o=bind` mounts; empty for any other volume."""
    options = split_options(volume.options.get("o", ""))
    is_bind = volume.driver == "local" and ("bind" in options or "rbind" in options)
    return volume.options.get("device", "") if is_bind else ""


def as_bind(snapshot: AuditSnapshot, mount: AuditedMount) -> AuditedMount:
    """Convert a mount to a bind mount if its volume has the option `o=bind`. Return any other mount unchanged."""
    volume = snapshot.volumes.get(mount.volume) if mount.kind == "volume" else None
    directory = bound_directory(volume) if volume is not None else ""
    return replace(mount, kind="bind", source=posixpath.normpath(directory)) if directory else mount


def store_of(snapshot: AuditSnapshot, mount: AuditedMount) -> StorageBehindMount:
    """Return the storage that holds the data of a container's mount."""
    if mount.kind == "tmpfs":
        return StorageBehindMount(StorageMedium.MEMORY, "memory", "")
    volume = snapshot.volumes.get(mount.volume) if mount.kind == "volume" else None
    return of_volume(snapshot, volume) if volume is not None else _of_path(snapshot, mount.source, mount.source)


def of_volume(snapshot: AuditSnapshot, volume: AuditedVolume) -> StorageBehindMount:
    """Return the storage that holds the data of a volume."""
    if volume.driver != "local":
        medium = StorageMedium.FUSE if _FUSE_DRIVERS.search(volume.driver) else StorageMedium.DRIVER
        return StorageBehindMount(medium, f"{volume.name} ({volume.driver})", f"volume {volume.name}")
    if directory := bound_directory(volume):
        return _of_path(snapshot, directory, directory)
    kind, options = volume.options.get("type", ""), split_options(volume.options.get("o", ""))
    device = volume.options.get("device", "")
    medium = medium_of(kind)
    if medium is StorageMedium.MEMORY:
        return StorageBehindMount(medium, f"{volume.name} (memory)", f"volume {volume.name}")
    if medium.is_network:
        title = _server(device, options, kind, snapshot.forwards)
        return StorageBehindMount(medium, title, f"{medium} {title}", options, file_system=kind, device=device)
    if device:
        return StorageBehindMount(StorageMedium.LOCAL, f"{volume.name} ({device})", f"device {device}")
    title = volume.name[:12] if volume.anonymous else volume.name
    store = _of_path(snapshot, volume.mountpoint, title, f"volume {volume.name}")
    if store.host_mount is not None and store.host_mount == memory_of_engine(snapshot):
        # The engine stores all volumes in memory. Return local storage, so that the audit does not report each
        # volume: a new volume would also be in memory.
        return StorageBehindMount(StorageMedium.LOCAL, title, store.identity, host_path=store.host_path)
    return store


def memory_of_engine(snapshot: AuditSnapshot) -> HostMount | None:
    """Return the memory file system that contains the engine's volumes.

    Return None if the volumes are on a disk, or if their location is not known.
    """
    path = snapshot.volume_directory
    above = mount_above(snapshot.mounts_by_point, posixpath.normpath(path)) if path else None
    return above if above is not None and medium_of(above.file_system) is StorageMedium.MEMORY else None


def _of_path(snapshot: AuditSnapshot, path: str, title: str, identity: str = "") -> StorageBehindMount:
    path = posixpath.normpath(path) if path else ""
    above = mount_above(snapshot.mounts_by_point, path) if path else None
    medium = medium_of(above.file_system) if above is not None else StorageMedium.LOCAL
    identity = identity or f"path {path}"
    if above is None or medium is StorageMedium.LOCAL:
        return StorageBehindMount(StorageMedium.LOCAL, title, identity, host_path=path)
    if medium is StorageMedium.MEMORY:
        return StorageBehindMount(medium, f"{title} (memory)", identity, host_path=path, host_mount=above)
    device = above.source + path[len(above.point.rstrip("/")) :]
    server = f"{device}{_port(above.options, above.file_system)}"
    return StorageBehindMount(
        medium, f"{title} ({server}, {above.file_system})", f"{medium} {server}", above.options, path, above,
        above.file_system, device,
    )  # fmt: skip


def _default_port(file_system: str) -> str:
    """Return the port that the kernel uses without the mount option `port`; empty if it is unknown."""
    kind = kind_of_file_system(file_system)
    return str(kind.default_port or "") if kind is not None else ""


def _port(options: Mapping[str, str], file_system: str) -> str:
    """Return `, port PORT`, which messages append to a server's name; empty for the default port."""
    port = options.get("port", "0")
    return "" if port in ("0", _default_port(file_system)) else f", port {port}"


def _server(device: str, options: Mapping[str, str], file_system: str, forwards: Mapping[int, str]) -> str:
    """Return text that names a server: `server:/export`, `//server/share` or a backend of the gateway."""
    address, port = options.get("addr", ""), options.get("port", _default_port(file_system))
    backend = next((name for number, name in forwards.items() if str(number) == port), "")
    if backend and address.startswith(("127.", "::1", "localhost")):
        return f"{backend} of this gateway, {device}"
    export = f"{address}:/{device.rpartition(':/')[2].lstrip('/')}"
    title = export if medium_of(file_system) is StorageMedium.NFS and address else device
    return f"{title}{_port(options, file_system)}"
