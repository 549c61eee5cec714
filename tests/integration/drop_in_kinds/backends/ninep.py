"""`kind: ninep`: a 9P file server. The probe negotiates the protocol version (version(5) of Plan 9)."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.backend_support.kernel_mount_properties import FstabFields, ImportedVolume, KernelMountProperties
from gateway.backend_support.volume_definition import VolumeOptions, VolumeSpec, build_volume
from gateway.backends import BackendKind, EmptyOptions
from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.states import TrafficClass
from gateway.errors import FailureReason, UnusableTargetError
from gateway.relay.receive_exactly import receive_exactly

_VERSION_OPTIONS = ("version",)


@dataclass(frozen=True)
class NinepOptions:
    """The options of a 9P backend.

    Args:
        tree: Path of the directory on the server.
        volume: A Docker volume that mounts this directory.
    """

    tree: str = "/"
    volume: VolumeOptions | None = None


class NinepBackend:
    """A 9P backend; implements `gateway.contracts.backend.Backend`.

    Args:
        options: The options of the backend.
        check: An empty object, because the check of this kind has no options.
    """

    def __init__(self, options: NinepOptions, check: EmptyOptions) -> None:
        self.options = options
        self.check = check

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        """Negotiate the protocol version; see `gateway.contracts.backend.Backend`."""
        with await link.socket(target, phases) as sock:
            sock.send(struct.pack("<IBHIH", 21, 100, 0xFFFF, 8192, 8) + b"9P2000.L")
            if (await receive_exactly(sock, 5))[4] != 101:
                raise UnusableTargetError(FailureReason.PROTOCOL, "not a 9P server")
        return ProbeResult()


def _build(options: NinepOptions, listener: HostPort, hold: float) -> VolumeSpec | None:
    del hold
    volume = options.volume
    if volume is None:
        return None
    mount_options = ("trans=tcp", "version=9p2000.L", f"aname={options.tree}")
    return build_volume(volume, listener, "9p", options.tree, listener.host, mount_options, _VERSION_OPTIONS)


def _problems(options: NinepOptions) -> Iterator[tuple[str, str]]:
    if not options.tree.startswith("/"):
        yield "tree", "must begin with / for a volume"


def _persistent_volume(volume: VolumeSpec) -> dict[str, Any]:
    return {"csi": {"driver": "9p.csi.example.com", "volumeHandle": volume.export}}


def _import_volume(driver_options: Mapping[str, str]) -> ImportedVolume:
    if "device" not in driver_options:
        raise ValueError("the server (device) is missing")
    mount = dict(each.partition("=")[::2] for each in driver_options.get("o", "").split(","))
    keys = {"targets": [driver_options["device"]], "tree": mount.get("aname", "/"), "volume": {"read_only": True}}
    return keys, ["look at tree"]


def _host_mount(address: str, port: int, tree: str, options: Sequence[str]) -> FstabFields:
    kept = tuple(each for each in options if not each.startswith("aname="))
    return FstabFields(address, "9p", (*kept, f"port={port}", f"aname={tree}"), "the new line has no cache")


KIND = BackendKind(
    "ninep",
    NinepOptions,
    EmptyOptions,
    NinepBackend,
    schemes=("ninep",),
    default_port=564,
    read_url=lambda _scheme, path: {"tree": path} if path else {},
    traffic_class=TrafficClass.BULK,
    mount=KernelMountProperties(
        file_systems=("9p",),
        build=_build,
        path_key="tree",
        version_options=_VERSION_OPTIONS,
        persistent_volume=_persistent_volume,
        versions=("9p2000.L",),
        reserved=frozenset({"trans"}),
        problems=_problems,
        import_volume=_import_volume,
        host_mount=_host_mount,
    ),
)
