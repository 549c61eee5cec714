"""Defines how kernels mount NFS backends: mount options, Docker volumes, PersistentVolumes and exports."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
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
from gateway.contracts.config_types import HostPort
from gateway.nfs.mount_options_set_by_gateway import REPLACED
from gateway.octal_escapes import escaped

DEFAULT_PORT = 2049
_TIMEO, _MAX_RETRANS = 60, 9
"""The mount option `timeo`, in seconds, and the highest useful value of the mount option `retrans`. The kernel limits
`timeo * (1 + retrans)`, the timeout of an RPC call, to 600 s."""
MAX_MOUNT_WAIT = _TIMEO * (1 + _MAX_RETRANS)
"""Maximum number of seconds for which the kernel can wait for the server during a mount."""
DEFAULT_HOLD = 300.0
"""Default of `hold` for NFS backends, in seconds."""
_VERSION_OPTIONS = ("vers", "nfsvers")
_VERSIONS = ("4", "4.0", "4.1", "4.2")
_RESERVED = frozenset({
    "proto", "tcp", "udp", "rdma", "tcp6", "udp6", "clientaddr", "mountaddr", "mountport", "mountproto", "mountvers",
    "minorversion", "v2", "v3", "v4", "v4.0", "v4.1", "v4.2", "softerr", "bg", "fg", "retry", "intr", "nointr",
    "resvport",
})  # fmt: skip
_IMPORTED_OPTIONS = frozenset({
    "ac", "acdirmax", "acdirmin", "acregmax", "acregmin", "actimeo", "async", "cto", "fsc", "lookupcache", "noac",
    "noatime", "nocto", "nodev", "nodiratime", "noexec", "nosuid", "nconnect", "relatime", "rsize", "sync", "wsize",
})  # fmt: skip
"""Mount options that `gateway import` keeps for a volume. It does not keep `timeo` and `retrans`, because a mount
through the gateway must wait for `hold` (see `_volume`)."""


@dataclass(frozen=True)
class NfsBackendOptions:
    """The configuration keys that only NFS backends have.

    Args:
        export: Path of the exported directory in the server's pseudo file system.
        allow_unprivileged_ports: Accept clients from source ports above 1023, for containers behind NAT.
        volume: A Docker volume for the export, managed by the gateway.
    """

    export: str
    allow_unprivileged_ports: bool = False
    volume: VolumeOptions | None = None


def _volume(options: NfsBackendOptions, listener: HostPort, hold: float) -> VolumeSpec | None:
    """Return the definition of the volume.

    A mount waits for the server for at least `hold` seconds before it fails. If `hold` exceeds `MAX_MOUNT_WAIT`, the
    mount waits only `MAX_MOUNT_WAIT` seconds.

    Docker's driver calls mount(2), which rejects options that only mount.nfs implements, such as `retry` and `bg`.
    The definition always contains the NFS version, because the kernel's default is version 3.
    """
    volume = options.volume
    if volume is None:
        return None
    address = mount_address(volume, listener)
    proto = "tcp6" if ":" in address else "tcp"
    mount_options = ("nfsvers=4.2", f"proto={proto}", "hard", f"timeo={_TIMEO * 10}", f"retrans={_retrans(hold)}")
    device = _device(address, options.export)
    return build_volume(volume, listener, "nfs", options.export, device, mount_options, _VERSION_OPTIONS)


def _device(address: str, export: str) -> str:
    return f"{f'[{address}]' if ':' in address else address}:{export}"


def _retrans(hold: float) -> int:
    """Return a value for `retrans` that makes a mount wait for the server for at least `hold` seconds.

    A mount fails when one of its RPC calls times out. Over TCP, the timeout of a call is `_TIMEO * (1 + retrans)`
    seconds (nfs(5)), but at most 600 s (`NFS_MAX_TCP_TIMEOUT`).
    """
    return min(max(2, math.ceil(hold / _TIMEO)), _MAX_RETRANS)


def _volume_problems(options: NfsBackendOptions) -> Iterator[tuple[str, str]]:
    """Yield each key that a volume does not support, and the reason. Implements `KernelMountProperties.problems`."""
    if not options.export.startswith("/") or ".." in options.export.split("/"):
        yield "export", f"{options.export!r} must begin with / and must not contain .., because volume is set"
    volume = options.volume
    if volume is not None and "noresvport" in volume.mount_options and not options.allow_unprivileged_ports:
        yield "volume.mount_options", "noresvport: needs allow_unprivileged_ports: true"


def _persistent_volume(volume: VolumeSpec) -> dict[str, Any]:
    source = {"server": volume.address, "path": volume.export, "readOnly": volume.read_only}
    return {"nfs": source, "mountOptions": kubernetes_options(volume)}


def _import_volume(driver_options: Mapping[str, str]) -> ImportedVolume:
    mount = dict(part.strip().partition("=")[::2] for part in driver_options.get("o", "").split(","))
    server, _, export = driver_options.get("device", "").rpartition(":")
    named, server = server, (mount.pop("addr", "") or server).strip("[]")
    if not server or not export:
        raise ValueError("the server (addr=) or the export (device) is missing")
    if not export.startswith("/"):
        raise ValueError(f"the export {export} does not begin with /")
    port = mount.pop("port", "") or str(DEFAULT_PORT)
    if not port.isdecimal():
        raise ValueError(f"port={port} is not a port number: use 1 to 65535")
    version = mount.pop("nfsvers", "") or mount.pop("vers", "") or "4"
    kept, notes = _imported_options(mount)
    if named.strip("[]") not in ("", server):
        notes.append(f"the target is the server in the mount options ({server}), not the server in device ({named})")
    if not version.startswith("4"):
        notes.append(f"NFS version {version} is not supported: the volume uses version 4.2")
    elif version in ("4.0", "4.1"):
        kept.insert(0, f"nfsvers={version}")
    volume: dict[str, Any] = {"read_only": True} if "ro" in mount else {}
    keys = {"targets": [str(HostPort(server, int(port)))], "export": export}
    return keys | {"volume": volume | ({"mount_options": kept} if kept else {})}, notes


def _imported_options(mount: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the mount options to import, and notes for the user about the other options."""
    written = {name: f"{name}={value}" if value else name for name, value in mount.items()}
    kept = [text for name, text in written.items() if name in _IMPORTED_OPTIONS]
    others = [text for name, text in written.items() if name not in {*_IMPORTED_OPTIONS, "ro", "rw", "hard", ""}]
    return kept, [f"mount options that are not imported: {', '.join(others)}"] if others else []


def _host_mount(address: str, port: int, export: str, options: Sequence[str]) -> FstabFields:
    """Return the mount of an export. Before it fails, the mount waits for the server for at least `DEFAULT_HOLD`.

    Implements `KernelMountProperties.host_mount`.
    """
    waits = (f"timeo={_TIMEO * 10}", f"retrans={_retrans(DEFAULT_HOLD)}")
    version = next((each for each in options if re.match(r"(nfs)?vers=4\.", each)), "nfsvers=4.2")
    replaced = [
        each
        for each in options
        if each.partition("=")[0] in {*REPLACED, "intr", "nointr", "timeo", "retrans"}
        and each not in waits
        and not re.fullmatch(r"hard|tcp|proto=tcp|(nfs)?vers=4\.\d", each)  # these remain valid through the gateway
    ]
    kept = [each for each in options if each not in (*replaced, *waits)]
    reason = "because the mount uses NFSv4 over TCP, and waits for the gateway's tunnel"
    note = f"the new line omits {','.join(replaced)}, {reason}" if replaced else ""
    return FstabFields(_device(address, export), "nfs4", (*kept, f"port={port}", version, "hard", *waits), note)


def _render_export(uses: Sequence[tuple[NfsBackendOptions, Sequence[str]]]) -> str:
    """Return the line for /etc/exports on the server (exports(5)). Implements `KernelMountProperties.render_export`.

    If a read-only and a writable backend reach an export from the same address, the export is writable from this
    address, because the server cannot distinguish the two backends. The line contains the option `insecure`, because
    sshd and the gateway connect from ports above 1023.
    """
    modes: dict[str, str] = {}
    for options, clients in uses:
        is_read_only = options.volume is not None and options.volume.read_only
        modes |= {client: modes.get(client, "ro") if is_read_only else "rw" for client in clients}
    path = escaped(uses[0][0].export, r'\s"#\\')
    return " ".join((path, *(f"{client}({mode},sync,no_subtree_check,insecure)" for client, mode in modes.items())))


NFS_MOUNT_PROPERTIES = KernelMountProperties(
    file_systems=("nfs",),
    build=_volume,
    path_key="export",
    version_options=_VERSION_OPTIONS,
    versions=_VERSIONS,
    reserved=_RESERVED,
    problems=_volume_problems,
    persistent_volume=_persistent_volume,
    import_volume=_import_volume,
    host_mount=_host_mount,
    device=r"[^/]+:/",
    render_export=_render_export,
)
