"""Defines the snapshot that an audit examines: the containers, mounts and volumes of an engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from gateway.audit.host_filesystem_model import HostMount, HostPath
from gateway.docker.grants import PROJECT, SERVICE, SWARM_SERVICE
from gateway.docker.image_labels import split

ONE_OFF = "com.docker.compose.oneoff"
"""The label that Compose sets to `True` on containers of `docker compose run`, and to `False` on other containers."""


@dataclass(frozen=True)
class AuditedMount:
    """A mount of a container.

    Args:
        kind: `volume`, `bind` or `tmpfs`.
        path: The mount point inside the container.
        source: The path on the engine's host; empty for `tmpfs`.
        volume: The name of the volume; empty if `kind` is not `volume`.
        writable: Whether the mount is writable in the container.
        hides: Names of the files and directories that the image has in `path`, but the mounted directory lacks.
        is_stale: Whether the mounted file was replaced or removed on the host after the container had mounted it.
    """

    kind: Literal["volume", "bind", "tmpfs"]
    path: str
    source: str = ""
    volume: str = ""
    writable: bool = True
    hides: tuple[str, ...] = ()
    is_stale: bool = False


@dataclass(frozen=True)
class ContainerProcessUser:
    """The user of a container's main process, by numeric IDs.

    Args:
        uid: The user's ID.
        groups: The IDs of the user's groups.
        ignores_permissions: Whether the user has CAP_DAC_OVERRIDE.
        is_configured: Whether the container starts with this user. False if a program in the container has switched
            to this user.
    """

    uid: int
    groups: frozenset[int]
    ignores_permissions: bool = False
    is_configured: bool = True


@dataclass(frozen=True)
class AuditedContainer:
    """The state of a container at the time of the audit.

    Args:
        id: The container's ID.
        name: The container's name.
        image: The name of the image with which the container was created.
        running: Whether the container runs.
        removed: Whether the engine removes the container and its anonymous volumes when the container stops (`--rm`).
        mounts: The container's mounts.
        layer: The size of the writable layer in bytes; 0 if the layer is empty, or if its size is not known.
        changes: Paths that the container added or changed in its layer, with their sizes in bytes. If a size is not
            known, the value is 1. None if the paths are not known.
        image_has_layer_directory: Whether the directory that `layer_data.find` returns for `changes` contains files
            of the image, or possibly contains them.
        user: The user of the main process; None if it is not known.
        shared_memory: The kind of database that has files in /dev/shm; empty if the audit found no such files.
        is_own: Whether the container runs the gateway itself. Access to keys and to the engine's socket is then not a
            hazard, because the gateway needs it.
        inspection: The engine's response to an inspect request.
        image_config: The configuration of the image; None if it is not known.
        image_reference: The image's name, for use in commands. If the name may now refer to another image, this field
            contains the image's ID instead. Empty if neither is known.
    """

    id: str
    name: str
    image: str = ""
    running: bool = True
    removed: bool = False
    mounts: tuple[AuditedMount, ...] = ()
    layer: int = 0
    changes: Mapping[str, int] | None = field(default=None, hash=False)
    image_has_layer_directory: bool = False
    user: ContainerProcessUser | None = None
    shared_memory: str = ""
    is_own: bool = False
    inspection: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)
    image_config: Mapping[str, Any] | None = field(default=None, hash=False, compare=False)
    image_reference: str = ""

    @property
    def labels(self) -> Mapping[str, str]:
        """The container's labels, except those that its image sets. Empty if the labels are not known."""
        image = None if self.image_config is None else self.image_config.get("Labels") or {}
        return split((self.inspection.get("Config") or {}).get("Labels") or {}, image)[0]

    @property
    def exact_image(self) -> str:
        """The name of the container's image; the image's ID if the name may now refer to another image."""
        return self.image_reference or self.image

    @property
    def service(self) -> str:
        """The container's Compose service (`PROJECT/SERVICE`) or swarm service; empty if it has neither."""
        labels = self.labels
        if SWARM_SERVICE in labels:
            return labels[SWARM_SERVICE]
        is_service = PROJECT in labels and SERVICE in labels and labels.get(ONE_OFF) != "True"
        return f"{labels[PROJECT]}/{labels[SERVICE]}" if is_service else ""

    @property
    def is_former_task(self) -> bool:
        """Whether the container is a stopped task of a swarm service. The swarm never starts a stopped task again."""
        return not self.running and SWARM_SERVICE in self.labels

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The configuration of the container's image; empty if it is not known."""
        return self.image_config or {}

    @property
    def environment(self) -> dict[str, str]:
        """The container's environment variables."""
        found = (self.inspection.get("Config") or {}).get("Env") or ()
        return dict(str(each).partition("=")[::2] for each in found)


@dataclass(frozen=True)
class AuditedVolume:
    """The state of a volume at the time of the audit.

    Args:
        name: The volume's name.
        driver: The volume's driver.
        options: The options of the driver.
        labels: The volume's labels.
        anonymous: Whether the engine generated the volume's name, because the user did not specify a name.
        mountpoint: The volume's directory on the engine's host.
        created: The time of creation, as the engine reports it.
        size: The size of the volume in bytes; None if it is not known.
        last_use: A description of the volume's last use; empty if it is not known.
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
class AuditSnapshot:
    """The state of an engine and its host at the time of the audit.

    Args:
        containers: The containers.
        volumes: The volumes. The keys are the names of the volumes.
        forwards: For each port on which the gateway listens, the name of the backend.
        host_mounts: The mount table of the engine's host; None if it is not known.
        paths: The mounted files and directories of the host, except those on network file systems. The keys are the
            paths on the host.
        unchecked: Messages about data that the audit could not read, and about the hazards that it therefore cannot
            find.
        cli: The engine's command line client.
        socket: The path of the engine's socket.
        cgroup_mode: The cgroup namespace mode that containers have by default.
        volume_directory: The directory on the engine's host that contains the volumes; empty if it is not known.
    """

    containers: tuple[AuditedContainer, ...] = ()
    volumes: Mapping[str, AuditedVolume] = field(default_factory=dict)
    forwards: Mapping[int, str] = field(default_factory=dict)
    host_mounts: tuple[HostMount, ...] | None = None
    paths: Mapping[str, HostPath] = field(default_factory=dict)
    unchecked: tuple[str, ...] = ()
    cli: str = "docker"
    socket: str = "/var/run/docker.sock"
    cgroup_mode: str = "private"
    volume_directory: str = ""

    @cached_property
    def current_containers(self) -> tuple[AuditedContainer, ...]:
        """The containers without the former tasks of swarm services."""
        return tuple(each for each in self.containers if not each.is_former_task)

    @cached_property
    def mounts_by_point(self) -> dict[str, HostMount]:
        """The topmost mount at each mount point of the engine's host."""
        return {each.point: each for each in self.host_mounts or ()}
