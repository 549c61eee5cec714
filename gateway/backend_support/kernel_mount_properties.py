"""Describes how kernels mount the backends of one kind, such as NFS."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.backend_support.volume_definition import VolumeSpec
from gateway.contracts.config_types import HostPort

ImportedVolume = tuple[dict[str, Any], list[str]]
"""The result of importing a Docker volume: the backend's configuration keys, and notes for the user."""


@dataclass(frozen=True)
class FstabFields:
    """How a host mounts a backend through the gateway: the fields of a line in fstab(5), without the directory.

    Args:
        device: The device argument of mount(2).
        file_system: The type of the file system, as for `mount -t`.
        options: The mount options.
        note: A note for the user on how the options differ from those of the old mount; empty if it is unnecessary.
    """

    device: str
    file_system: str
    options: Sequence[str]
    note: str = ""


@dataclass(frozen=True)
class KernelMountProperties:
    """How kernels mount the backends of one kind, such as NFS: file system types, mount options and volumes.

    The options class of the kind must have a field `volume`.

    Args:
        file_systems: The file system types of this kind, as for `mount -t`. A type that begins with one of them, such
            as `nfs4`, also belongs to the kind.
        build: Receives the options, the listener's address and `hold` in seconds. Returns the volume, or None if no
            volume is configured.
        version_options: The mount options that set the protocol version.
        versions: The allowed values of `version_options`.
        reserved: Mount options that users must not set, in addition to the reserved options of all kinds. The gateway
            sets these options itself, or they cannot work through the gateway.
        problems: Receives the options of a backend with a volume. Yields each key that the volume does not support,
            and the reason.
        path_key: The configuration key with the directory or share that is mounted, such as `export`.
        persistent_volume: Receives the definition of a volume. Returns those keys of a Kubernetes PersistentVolume's
            `spec` that depend on the kind: the volume source, and `mountOptions`.
        import_volume: Receives the driver options of a Docker volume. Returns the configuration keys of a backend,
            and notes for the user. Raises `ValueError` if the driver options are not valid. None if `gateway import`
            does not import volumes and mounts of this kind.
        host_mount: Receives the address and port of the listener, the value of `path_key`, and the options of an
            imported mount without the address and the port. Returns the mount through the gateway. Required if
            `import_volume` is set.
        device: A regular expression. Without `-t`, mount(8) mounts matching devices with this kind of file system.
            Empty if mount(8) recognizes no devices of this kind.
        render_export: Receives the options and the clients (as in exports(5)) of each backend that uses a certain
            export of a server. Returns the line for this export in the server's configuration. None if servers of
            this kind need no such line.
    """

    file_systems: tuple[str, ...]
    build: Callable[[Any, HostPort, float], VolumeSpec | None]
    path_key: str
    persistent_volume: Callable[[VolumeSpec], dict[str, Any]]
    version_options: tuple[str, ...] = ("vers",)
    versions: tuple[str, ...] = ()
    reserved: frozenset[str] = frozenset()
    problems: Callable[[Any], Iterator[tuple[str, str]]] = lambda _: iter(())
    import_volume: Callable[[Mapping[str, str]], ImportedVolume] | None = None
    host_mount: Callable[[str, int, str, Sequence[str]], FstabFields] | None = None
    device: str = ""
    render_export: Callable[[Sequence[tuple[Any, Sequence[str]]]], str] | None = None

    def __post_init__(self) -> None:
        if (self.import_volume is None) is not (self.host_mount is None):
            raise ValueError("import_volume and host_mount: set both, or neither of them")

    @property
    def has_share_devices(self) -> bool:
        """Whether the device of a mount has the form `//server/share`."""
        return self.device.startswith("//")

    def mounts(self, file_system: str) -> bool:
        """Return whether a type of file system, such as `nfs4`, belongs to this kind."""
        return file_system.startswith(self.file_systems)
