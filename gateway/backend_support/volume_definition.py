"""Defines Docker volumes for NFS exports and SMB shares, which containers mount through the gateway."""

from dataclasses import dataclass, field

from gateway.contracts.config_types import HostPort


@dataclass(frozen=True)
class VolumeOptions:
    """The options of the key `volume`: a Docker volume for the export or share.

    Args:
        name: Name of the volume.
        read_only: Mount the volume read-only.
        address: IP address at which the Docker host reaches the listener. Default: the address of the listener, or
            127.0.0.1 or ::1 for a wildcard address. Must not be a host name, because the gateway and the Docker host
            may resolve names differently.
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
        kind: Type of the file system, such as `nfs`.
        device: The device argument of mount(2).
        options: The options of mount(2), in order.
        address: Address at which the Docker host reaches the listener.
        port: Port of the listener.
        export: The exported directory or share.
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
        """The options of this volume for Docker's volume driver `local`."""
        return {"type": self.kind, "device": self.device, "o": ",".join(self.options)}


_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}  # noqa: S104 - does not bind 0.0.0.0
"""For `localhost` and each wildcard address: the loopback address that the mount options contain instead."""


def local_address(host: str) -> str:
    """Return the address at which this host reaches a listener.

    Args:
        host: The host of the listener's address.
    """
    return _LOOPBACK.get(host, host)


def mount_address(volume: VolumeOptions, listener: HostPort) -> str:
    """Return the address at which the Docker host reaches the listener.

    Args:
        volume: The options of the volume.
        listener: The address of the listener.
    """
    return volume.address or local_address(listener.host)


def kubernetes_options(volume: VolumeSpec) -> list[str]:
    """Return the mount options for a Kubernetes PersistentVolume.

    The result omits the address and the read-only mode, because other fields of the PersistentVolume contain both.
    """
    return [each for each in volume.options if each not in ("ro", "rw", f"addr={volume.address}")]


def build_volume(
    volume: VolumeOptions,
    listener: HostPort,
    kind: str,
    export: str,
    device: str,
    options: tuple[str, ...],
    version_options: tuple[str, ...] = ("vers",),
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
        version_options: The mount options that set the protocol version. If `volume.mount_options` contains one of
            them, this function omits all version options from `options`.
    """
    address = mount_address(volume, listener)
    mode = "ro" if volume.read_only else "rw"
    if any(option.partition("=")[0] in version_options for option in volume.mount_options):
        options = tuple(option for option in options if option.partition("=")[0] not in version_options)
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
