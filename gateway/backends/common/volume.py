"""A share as containers see it: a `local` volume of Docker's, or a mount, through the gateway's listener."""

from dataclasses import dataclass, field

from gateway.contracts import Endpoint


@dataclass(frozen=True)
class VolumeOptions:
    """A Docker volume that leads to the share.

    Args:
        name: What it is called.
        read_only: Mount it read-only.
        address: Where the host of the engine reaches the listener; absent: the listener's own address, and 127.0.0.1
            for a wildcard. An address and no name: the engine resolves names in a network of its own.
        mount_options: Further options for mount(2), such as `nconnect=4`.
    """

    name: str
    read_only: bool = False
    address: str | None = None
    mount_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class VolumeSpec:
    """What a volume is made of.

    Args:
        name: Its name.
        kind: The file system: `nfs` or `cifs`.
        device: What is mounted.
        options: The options of mount(2), in order.
        address: Where the engine's host reaches the listener.
        port: The listener's.
        export: The export or share.
        read_only: Whether nothing may be written.
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
        """As Docker's `local` driver wants them."""
        return {"type": self.kind, "device": self.device, "o": ",".join(self.options)}


_VERSION = ("vers=", "nfsvers=")
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}  # noqa: S104 - as they may be written


def reached_at(volume: VolumeOptions, listener: Endpoint) -> str:
    """The address at which the engine's host finds the listener."""
    return volume.address or _WILDCARDS.get(listener.host, listener.host)


def volume_of(
    wanted: VolumeOptions, listener: Endpoint, kind: str, export: str, device: str, options: tuple[str, ...]
) -> VolumeSpec:
    """A volume through a listener.

    Args:
        wanted: The configuration's options.
        listener: Where the gateway listens.
        kind: The file system.
        export: The export or share.
        device: What is mounted.
        options: Those of mount(2) that the file system wants, beside address, port, mode and the configuration's.
    """
    address = reached_at(wanted, listener)
    mode = "ro" if wanted.read_only else "rw"
    if any(option.startswith(_VERSION) for option in wanted.mount_options):
        options = tuple(option for option in options if not option.startswith(_VERSION))
    return VolumeSpec(
        name=wanted.name,
        kind=kind,
        device=device,
        options=(f"addr={address}", f"port={listener.port}", *options, mode, *wanted.mount_options),
        address=address,
        port=listener.port,
        export=export,
        read_only=wanted.read_only,
    )
