"""Defines `kind: smb` for SMB 2 and SMB 3 shares. The probe negotiates a dialect, but does not mount the share."""

import asyncio
import re
import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.backend_support.kernel_mount_properties import FstabFields, ImportedVolume, KernelMountProperties
from gateway.backend_support.volume_definition import (
    VolumeOptions,
    VolumeSpec,
    build_volume,
    kubernetes_options,
    mount_address,
)
from gateway.backends import BackendKind, EmptyOptions, ImportedBackendDefaults
from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import Duration, HostPort
from gateway.contracts.link import SocketConnector, Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.states import TrafficClass
from gateway.errors import FailureReason, UnusableTargetError
from gateway.facts import IDENTITY, VERSION
from gateway.relay.receive_exactly import receive_exactly

_HEADER = struct.Struct("<4sHHIHHIIQIIQ16s")
"""The SMB2 header ([MS-SMB2] 2.2.1.2)."""
_MAGIC = b"\xfeSMB"
_NEGOTIATE = 0
_PORT = 445
_NOT_SUPPORTED = 0xC00000BB
"""STATUS_NOT_SUPPORTED: the server supports none of the offered dialects ([MS-SMB2] 3.3.5.4)."""
_DIALECTS = {0x0202: "2.0.2", 0x0210: "2.1", 0x0300: "3.0", 0x0302: "3.0.2"}
_VERSIONS = ("2.0", "2.1", "3", "3.0", "3.0.2", "3.1.1")
_SIGNING_ENABLED = 1
_SIGNING_REQUIRED = 2
_RESPONSE = struct.Struct("<HHHH16s")
"""The first fields of a NEGOTIATE response: structure size, security mode, dialect, context count, server GUID
([MS-SMB2] 2.2.4)."""
_MAX_RESPONSE = 64 * 1024


@dataclass(frozen=True)
class SmbOptions:
    """The configuration keys that only SMB backends have.

    Args:
        share: Name of the share. A directory in the share can follow, as in `team/projects`.
        volume: A Docker volume for the share, managed by the gateway. Only for shares with guest access, because
            every user of the Docker engine could read a password in the volume's options.
    """

    share: str
    volume: VolumeOptions | None = None


class SmbBackend:
    """An SMB backend, whose probe negotiates a dialect; implements `gateway.contracts.backend.Backend`.

    Args:
        options: The options of the backend.
        check: An empty object, because this kind has no check options.
    """

    def __init__(self, options: SmbOptions, check: EmptyOptions) -> None:
        self.options = options
        self.check = check

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        """Negotiate a dialect of SMB with `target`; see `gateway.contracts.backend.Backend`.

        The probe does not check whether the share exists, or whether a user can log in.
        """
        with await link.socket(target, phases) as sock:
            try:
                with phases("greeting"):
                    response = await _negotiate(sock)
            except _UnsupportedDialectError:
                return ProbeResult(facts={VERSION: "SMB newer than 3.0.2"})
            except OSError as error:
                raise UnusableTargetError(FailureReason.RESET, str(error)) from error
        _, mode, dialect, _, guid = _RESPONSE.unpack_from(response, _HEADER.size)
        if dialect not in _DIALECTS:
            raise UnusableTargetError(
                FailureReason.PROTOCOL, f"the server chose dialect {dialect:#06x}, which the gateway did not offer"
            )
        signing = ", signing required" if mode & _SIGNING_REQUIRED else ""
        return ProbeResult(facts={VERSION: f"SMB {_DIALECTS[dialect]}{signing}", IDENTITY: guid.hex()})


class _UnsupportedDialectError(Exception):
    """The server supports only SMB 3.1.1 or newer. The probe does not offer these dialects."""


async def _negotiate(sock: Stream) -> bytes:
    """Send a NEGOTIATE request, and return the response, including the SMB2 header.

    Raises:
        UnusableTargetError: The response is not valid, or the server refuses to negotiate.
        _UnsupportedDialectError: The server supports none of the offered dialects.
        OSError: The connection has failed.
    """
    loop = asyncio.get_running_loop()
    header = _HEADER.pack(_MAGIC, 64, 0, 0, _NEGOTIATE, 1, 0, 0, 0, 0, 0, 0, bytes(16))
    body = struct.pack(
        f"<HHHHI16sQ{len(_DIALECTS)}H",
        36, len(_DIALECTS), _SIGNING_ENABLED, 0, 0, secrets.token_bytes(16), 0, *_DIALECTS,
    )  # fmt: skip
    # The header of the Direct TCP transport: a zero byte, and the length in three bytes ([MS-SMB2] 2.1).
    await loop.sock_sendall(sock, struct.pack(">I", len(header) + len(body)) + header + body)
    length = int.from_bytes(await receive_exactly(sock, 4), "big")
    if not _HEADER.size <= length <= _MAX_RESPONSE:
        raise UnusableTargetError(
            FailureReason.PROTOCOL, f"not an SMB server: the length of its response, {length} bytes, is not valid"
        )
    response = await receive_exactly(sock, length)
    magic, size, _, status, command = _HEADER.unpack_from(response)[:5]
    if magic != _MAGIC or size != _HEADER.size or command != _NEGOTIATE:
        raise UnusableTargetError(FailureReason.PROTOCOL, "not an SMB 2 server")
    if status == _NOT_SUPPORTED:
        raise _UnsupportedDialectError
    if status != 0:
        raise UnusableTargetError(
            FailureReason.PROTOCOL, f"the server refuses to negotiate (NTSTATUS {status:#010x})"
        )
    if length < _HEADER.size + _RESPONSE.size:
        raise UnusableTargetError(
            FailureReason.PROTOCOL, f"not an SMB server: the length of its response, {length} bytes, is not valid"
        )
    return response


def _volume(options: SmbOptions, listener: HostPort, hold: float) -> VolumeSpec | None:
    del hold  # SMB has no mount option for the time that the kernel waits for the server
    volume = options.volume
    if volume is None:
        return None
    device = f"//{mount_address(volume, listener)}/{options.share}"
    return build_volume(volume, listener, "cifs", options.share, device, ("vers=3.0", "hard", "sec=none"))


def _persistent_volume(volume: VolumeSpec) -> dict[str, Any]:
    """Return the SMB-specific keys of a PersistentVolume. Implements `KernelMountProperties.persistent_volume`.

    The volume uses the CSI driver for SMB, because Kubernetes has no built-in SMB volume.
    """
    attributes = {"source": f"//{volume.address}/{volume.export}"}
    csi = {
        "driver": "smb.csi.k8s.io",
        "volumeHandle": volume.name,
        "readOnly": volume.read_only,
        "volumeAttributes": attributes,
    }
    return {"csi": csi, "mountOptions": [*kubernetes_options(volume), "guest"]}


def _import_volume(driver_options: Mapping[str, str]) -> ImportedVolume:
    mount = dict(part.strip().partition("=")[::2] for part in driver_options.get("o", "").split(","))
    match = re.fullmatch(r"//([^/]+)/+([^/].*?)/*", driver_options.get("device", ""))
    if match is None:
        raise ValueError("the device must have the form //SERVER/SHARE")
    port = mount.pop("port", "") or str(_PORT)
    if not port.isdecimal():
        raise ValueError(f"port={port} is not a port number: use 1 to 65535")
    server = mount.pop("addr", "") or mount.pop("ip", "") or match[1]
    keys: dict[str, Any] = {"targets": [str(HostPort(server.strip("[]"), int(port)))], "share": match[2]}
    notes = []
    if server != match[1]:
        notes.append(
            f"the target is the server in the mount options ({server}), not the server in device ({match[1]})"
        )
    login = sorted({"user", "username", "password", "pass", "credentials", "cred"} & mount.keys())
    if login:
        notes.append(
            f"{', '.join(login)}: a volume with a password is not imported: mount the share on the host through the"
            " listener, with credentials=FILE, and bind-mount the directory"
        )
    else:
        keys["volume"] = {"read_only": True} if "ro" in mount else {}
    others = [
        f"{name}={value}" if value else name
        for name, value in mount.items()
        if name not in {*login, "ro", "rw", "guest", ""}
    ]
    return keys, [*notes, *([f"mount options that are not imported: {', '.join(others)}"] if others else [])]


def _host_mount(address: str, port: int, share: str, options: Sequence[str]) -> FstabFields:
    """Return the mount of a share. Implements `KernelMountProperties.host_mount`."""
    # mount.cifs(8) does not accept brackets around an IPv6 address.
    return FstabFields(f"//{address}/{share}", "cifs", (*options, f"port={port}"))


def _read_url(scheme: str, path: str) -> dict[str, str]:
    """Return the path of a URL as `share`. Implements `BackendKind.read_url`."""
    del scheme
    return {"share": path.removeprefix("/")} if path.strip("/") else {}


KIND = BackendKind(
    "smb",
    SmbOptions,
    EmptyOptions,
    SmbBackend,
    schemes=("smb",),
    default_port=_PORT,
    aliases=("cifs",),
    read_url=_read_url,
    hold=Duration(60.0),
    traffic_class=TrafficClass.BULK,
    mount=KernelMountProperties(
        file_systems=("cifs", "smb"),
        build=_volume,
        path_key="share",
        reserved=frozenset({"nfsvers"}),
        versions=_VERSIONS,
        persistent_volume=_persistent_volume,
        import_volume=_import_volume,
        host_mount=_host_mount,
        device=r"//[^/]+/+[^/]",
    ),
    facts=(VERSION, IDENTITY),
    imports=ImportedBackendDefaults(keys={"share": "SHARE"}, note="set share to the name of the share"),
)
