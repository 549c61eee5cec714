"""Defines Docker volumes for NFS exports and SMB shares, which containers mount through the gateway."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.contracts.values import Endpoint


@dataclass(frozen=True)
class VolumeOptions:
    """The options of the key `volume`: a Docker volume for the export or share.

    Args:
        name: Name of the volume.
        read_only: Mount the volume read-only.
        address: IP address at which the Docker host reaches the listener. Default: the address of the listener, or
            127.0.0.1 for a wildcard. Not a host name, because the Docker host may resolve names differently.
        mount_options: Further options for mount(2), such as `nconnect=4`.
    """

    name: str
    read_only: bool = False
    address: str | None = None
    mount_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class VolumeSpec:
    """The definition of a Docker volume that mounts an NFS export or SMB share.

    Args:
        name: Name of the volume.
        kind: Type of the file system: `nfs` or `cifs`.
        device: The device argument of mount(2).
        options: The options of mount(2), in order.
        address: Address at which the Docker host reaches the listener.
        port: Port of the listener.
        export: Path of the NFS export, or name of the SMB share.
        read_only: Whether to mount the volume read-only.
    """

    name: str
    kind: str
    device: str
    options: tuple[str, ...]
    address: str = ""
    port: int = 0
    export: str = ""
    read_only: bool = False
    driver: str = field(default="local", init=False)

    @property
    def driver_options(self) -> dict[str, str]:
        """The options of Docker's `local` driver."""
        return {"type": self.kind, "device": self.device, "o": ",".join(self.options)}


ImportedVolume = tuple[dict[str, Any], list[str]]
"""The configuration keys of a backend that `gateway import` derives from a volume, and notes for the user."""


@dataclass(frozen=True)
class KernelMountRules:
    """How kernels mount the backends of one kind, such as NFS: file system types, mount options and volumes.

    The options of the kind must have a field `volume`.

    Args:
        file_systems: The file system types of this kind, as for `mount -t`. A type that begins with one of them, such
            as `nfs4`, also belongs to the kind.
        build: Receives the options, the listener's address and `hold` in seconds. Returns the volume, or None if no
            volume is configured.
        versions: The protocol versions that are allowed in mount options.
        reserved: Mount options that users must not set, in addition to the reserved options of all kinds. The gateway
            sets these options itself, or they cannot work through the gateway.
        problems: Receives the options of a backend with a volume. Yields each key that the volume does not support,
            and the reason.
        persistent_volume: Returns the keys of a Kubernetes PersistentVolume's `spec` that depend on the kind: the
            source, and `mountOptions`.
        import_volume: Converts the driver options of a Docker volume to a backend. Raises `ValueError` if the driver
            options are not valid. None: `gateway import` does not import volumes of this kind.
        render_export: Receives the options and the addresses of the clients. Returns the line for the export in the
            server's configuration. None: the server's configuration needs no such line.
    """

    file_systems: tuple[str, ...]
    build: Callable[[Any, Endpoint, float], VolumeSpec | None]
    persistent_volume: Callable[[VolumeSpec], dict[str, Any]]
    versions: tuple[str, ...] = ()
    reserved: frozenset[str] = frozenset()
    problems: Callable[[Any], Iterator[tuple[str, str]]] = lambda _: iter(())
    import_volume: Callable[[Mapping[str, str]], ImportedVolume] | None = None
    render_export: Callable[[Any, Sequence[str]], str] | None = None

    def mounts(self, file_system: str) -> bool:
        """Return whether a type of file system, such as `nfs4`, belongs to this kind."""
        return file_system.startswith(self.file_systems)


_VERSION_OPTIONS = ("vers=", "nfsvers=")
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}  # noqa: S104 - not bound
"""Maps listener addresses that are not valid in mount options to the loopback address that reaches the listener."""


def mount_address(volume: VolumeOptions, listener: Endpoint) -> str:
    """Return the address at which the Docker host reaches the listener.

    Args:
        volume: The options of the volume.
        listener: The address of the listener.
    """
    return volume.address or _LOOPBACK.get(listener.host, listener.host)


def kubernetes_options(volume: VolumeSpec) -> list[str]:
    """Return the mount options for a Kubernetes PersistentVolume.

    The result omits the address and the read-only mode, because other fields of the PersistentVolume contain both.
    """
    return [each for each in volume.options if each not in ("ro", "rw", f"addr={volume.address}")]


def build_volume(
    volume: VolumeOptions, listener: Endpoint, kind: str, export: str, device: str, options: tuple[str, ...]
) -> VolumeSpec:
    """Return the definition of a volume.

    Args:
        volume: The options of the volume.
        listener: The address of the listener.
        kind: Type of the file system.
        export: The export or share.
        device: The device argument of mount(2).
        options: Options of mount(2) for the file system. This function adds the address, the port, `ro` or `rw`, and
            `volume.mount_options`.
    """
    address = mount_address(volume, listener)
    mode = "ro" if volume.read_only else "rw"
    if any(option.startswith(_VERSION_OPTIONS) for option in volume.mount_options):
        options = tuple(option for option in options if not option.startswith(_VERSION_OPTIONS))
    return VolumeSpec(
        name=volume.name,
        kind=kind,
        device=device,
        options=(f"addr={address}", f"port={listener.port}", *options, mode, *volume.mount_options),
        address=address,
        port=listener.port,
        export=export,
        read_only=volume.read_only,
    )
