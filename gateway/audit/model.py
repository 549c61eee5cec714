"""The snapshot that an audit reads: containers, volumes and files of the host."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class HostMount:
    """A line of the mount table of the engine's host.

    Args:
        point: The mount point.
        file_system: Its type, such as `ext4` or `nfs4`.
        source: What is mounted, such as `server:/export`.
        options: Options of the mount and of the file system.
    """

    point: str
    file_system: str
    source: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class HostPath:
    """A file or directory of the engine's host.

    Args:
        kind: What it is.
        uid: Its owner.
        gid: Its group.
        mode: Its permission bits.
        has_acl: Whether an access control list extends the permission bits.
        entries: Names in the directory; None: there are too many, or they may not be read.
        database: The database whose files are in the directory or a few levels below; empty: none is known.
    """

    kind: Literal["directory", "file", "socket", "other"]
    uid: int
    gid: int
    mode: int
    has_acl: bool = False
    entries: frozenset[str] | None = None
    database: str = ""


@dataclass(frozen=True)
class AuditedMount:
    """A mount of a container.

    Args:
        kind: `volume`, `bind` or `tmpfs`.
        path: The mount point inside the container.
        source: The path on the engine's host; empty for `tmpfs`.
        volume: The name of the volume; empty for other kinds.
        writable: Whether the container may write to it.
        hides: Entries of the image's directory at this path that the mounted directory does not have.
        is_stale: Whether the host's file was replaced since the container mounted it.
    """

    kind: Literal["volume", "bind", "tmpfs"]
    path: str
    source: str = ""
    volume: str = ""
    writable: bool = True
    hides: tuple[str, ...] = ()
    is_stale: bool = False


@dataclass(frozen=True)
class User:
    """The numeric user of a container's main process.

    Args:
        uid: The user's ID.
        groups: The IDs of its groups.
    """

    uid: int
    groups: frozenset[int]


@dataclass(frozen=True)
class AuditedContainer:
    """A container of the engine.

    Args:
        id: Its ID.
        name: Its name.
        image: The image as it was named at the start.
        running: Whether it runs.
        removed: Whether the engine removes it, with its anonymous volumes, when it stops (`--rm`).
        mounts: Its mounts.
        layer: Bytes in its writable layer.
        changes: Paths that it added or changed in its layer, with their bytes, or 1 if these are not known; None: the
            paths are not known.
        user: The user of its main process; None: not known.
        shared_memory: The database whose files are in its /dev/shm; empty: none is known.
        is_own: Whether it is the gateway of the configuration, which needs keys and the engine's socket.
        inspection: The engine's response, from which fixes are made.
        image_config: The configuration of its image; None: not known.
    """

    id: str
    name: str
    image: str = ""
    running: bool = True
    removed: bool = False
    mounts: tuple[AuditedMount, ...] = ()
    layer: int = 0
    changes: Mapping[str, int] | None = field(default=None, hash=False)
    user: User | None = None
    shared_memory: str = ""
    is_own: bool = False
    inspection: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    image_config: Mapping[str, Any] | None = field(default=None, hash=False, compare=False)

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels that do not come from its image, which could change the commands of a fix; none if unknown."""
        if self.image_config is None:
            return {}
        from_image: Mapping[str, str] = self.image_config.get("Labels") or {}
        labels: Mapping[str, str] = (self.inspection.get("Config") or {}).get("Labels") or {}
        return {key: value for key, value in labels.items() if from_image.get(key) != value}

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The configuration of its image, as far as it is known."""
        return self.image_config or {}

    @property
    def environment(self) -> dict[str, str]:
        """Its environment variables."""
        found = (self.inspection.get("Config") or {}).get("Env") or ()
        return dict(str(each).partition("=")[::2] for each in found)


@dataclass(frozen=True)
class Volume:
    """A volume of the engine.

    Args:
        name: Its name.
        driver: Its driver.
        options: The options of the driver.
        labels: Its labels.
        anonymous: Whether the engine named it, for a path that needs a volume.
        mountpoint: Where the engine keeps it on its host.
        created: When, as the engine reports it.
        size: Bytes in it; None: not known.
        last_use: What is known about its last use.
    """

    name: str
    driver: str = "local"
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    anonymous: bool = False
    mountpoint: str = ""
    created: str = ""
    size: int | None = None
    last_use: str = ""


@dataclass(frozen=True)
class Snapshot:
    """What an audit knows about an engine and its host.

    Args:
        containers: The containers.
        volumes: The volumes by name.
        forwards: Names of the gateway's backends by the port of their listener.
        host_mounts: The mount table of the engine's host; None: not known.
        paths: Files and directories of the host that are mounted, by path. Those on network file systems are absent.
        unchecked: What could not be read, and which hazards are therefore not found.
        client: The engine's command line client.
        socket: The path of the engine's socket.
        cgroup_mode: The cgroup namespace mode that containers have by default.
    """

    containers: tuple[AuditedContainer, ...] = ()
    volumes: Mapping[str, Volume] = field(default_factory=dict)
    forwards: Mapping[int, str] = field(default_factory=dict)
    host_mounts: tuple[HostMount, ...] | None = None
    paths: Mapping[str, HostPath] = field(default_factory=dict)
    unchecked: tuple[str, ...] = ()
    client: str = "docker"
    socket: str = "/var/run/docker.sock"
    cgroup_mode: str = "private"
