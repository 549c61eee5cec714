"""Defines `kind: nfs` for NFSv4 exports. The probe does not mount the export, because a mount can hang."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.backend_support.volume import (
    ImportedVolume,
    KernelMountRules,
    VolumeOptions,
    VolumeSpec,
    build_volume,
    kubernetes_options,
    mount_address,
)
from gateway.backends import BackendKind, ConfiguredBackend, ImportedBackendDefaults
from gateway.contracts.backend import ProbeResult
from gateway.contracts.link import Connector
from gateway.contracts.phases import Phases
from gateway.contracts.states import TrafficClass
from gateway.contracts.values import Duration, Endpoint
from gateway.errors import Reason, UnusableTargetError
from gateway.facts import IDENTITY, FactDefinition, hidden
from gateway.nfs import nfs4
from gateway.nfs.export_probe import ExportProbe
from gateway.nfs.latency_tap import RpcLatencyTap
from gateway.nfs.rpc import RpcClient, RpcError
from gateway.nfs.xdr import XdrError
from gateway.text_sanitizer import error_text, format_bytes

_PORT = 2049
_TIMEO, _MAX_RETRANS = 60, 9
"""Values of mount options: `timeo`, in seconds, and the maximum for `retrans`. A larger `retrans` has no effect,
because the kernel limits `timeo * (1 + retrans)` to 600 s."""
_VERSIONS = ("4", "4.0", "4.1", "4.2")
_RESERVED = frozenset({
    "proto", "tcp", "udp", "rdma", "tcp6", "udp6", "clientaddr", "mountaddr", "mountport", "mountproto", "mountvers",
    "minorversion", "v2", "v3", "v4", "v4.0", "v4.1", "v4.2", "softerr", "bg", "fg", "retry", "intr", "nointr",
    "resvport",
})  # fmt: skip
_IMPORTED_OPTIONS = frozenset({
    "ac", "acdirmax", "acdirmin", "acregmax", "acregmin", "actimeo", "async", "cto", "fsc", "lookupcache", "noac",
    "noatime", "nocto", "nodev", "nodiratime", "noexec", "nosuid", "nconnect", "relatime", "retrans", "rsize", "sync",
    "timeo", "wsize",
})  # fmt: skip
"""Mount options that `gateway import` keeps for a volume."""
EXPORT_READ_ONLY = FactDefinition(
    "read_only", "Whether the export refuses writes, if `check.write` is set.", describe=hidden
)
SPACE = FactDefinition(
    "space_bytes",
    "Total and available space of the export.",
    metric="gateway_nfs_space_bytes",
    label="kind",
    describe=lambda space: f"{format_bytes(space['available'])} free",
)
LEASE = FactDefinition(
    "lease_seconds",
    "Seconds for which the server keeps the locks of a silent client.",
    describe=lambda seconds: f"lease of {seconds} s",
)
_REASONS = {
    nfs4.NFS4ERR_NOENT: Reason.EXPORT,
    nfs4.NFS4ERR_NOTDIR: Reason.EXPORT,
    nfs4.NFS4ERR_PERM: Reason.PERMISSION,
    nfs4.NFS4ERR_ACCESS: Reason.PERMISSION,
    nfs4.NFS4ERR_WRONGSEC: Reason.PERMISSION,
    nfs4.NFS4ERR_NOSPC: Reason.NO_SPACE,
    nfs4.NFS4ERR_DQUOT: Reason.NO_SPACE,
    nfs4.NFS4ERR_ROFS: Reason.READ_ONLY,
    nfs4.NFS4ERR_STALE: Reason.EXPORT,
    nfs4.NFS4ERR_FHEXPIRED: Reason.EXPORT,
    nfs4.NFS4ERR_DELAY: Reason.STARTING,
    nfs4.NFS4ERR_GRACE: Reason.STARTING,
}


@dataclass(frozen=True)
class NfsOptions:
    """The configuration keys that only NFS backends have.

    Args:
        export: Path of the exported directory in the server's pseudo file system.
        allow_unprivileged_ports: Accept clients from source ports above 1023, for containers behind NAT.
        volume: A Docker volume for the export, managed by the gateway.
    """

    export: str
    allow_unprivileged_ports: bool = False
    volume: VolumeOptions | None = None


@dataclass(frozen=True)
class NfsCheckOptions:
    """The `check:` keys of an NFS backend.

    Args:
        write: Create and remove a directory at each check, to detect full, read-only and over-quota exports.
    """

    write: bool = False


class NfsBackend:
    """An NFS backend, whose probe sends RPC calls; implements `gateway.contracts.backend.Backend`.

    Args:
        options: The options of the backend.
        check: The check of the backend.
    """

    def __init__(self, options: NfsOptions, check: NfsCheckOptions) -> None:
        self.options = options
        self.check = check
        self._export_probe = ExportProbe(options.export, write=check.write)
        self._first_seen: dict[Endpoint, nfs4.NfsExport] = {}
        """The properties of the export at the first probe of each target, to detect changes."""

    async def probe(self, link: Connector, target: Endpoint, phases: Phases) -> ProbeResult:
        """Query the export on `target`; see `gateway.contracts.backend.Backend`.

        If `check.write` is set, also create and remove a directory.
        """
        with await link.socket(target, phases) as sock:
            client = RpcClient(sock, nfs4.PROGRAM, nfs4.VERSION)
            try:
                with phases("greeting"):
                    await nfs4.null(client)
                export = await self._export_probe.query(client, target, phases)
            except RpcError as error:
                versions = f" (it supports {error.versions[0]} to {error.versions[1]})" if error.versions else ""
                raise UnusableTargetError(
                    Reason.PERMISSION if error.denied else Reason.PROTOCOL, f"{error}{versions}"
                ) from error
            except nfs4.Nfs4StatusError as error:
                raise UnusableTargetError(
                    _REASONS.get(error.status, Reason.PROTOCOL), f"{self.options.export}: {error}"
                ) from error
            except XdrError as error:
                raise UnusableTargetError(
                    Reason.PROTOCOL,
                    f"not a valid NFS response ({error}): check that the target is an NFS server",
                ) from error
            except OSError as error:
                raise UnusableTargetError(Reason.RESET, error_text(error)) from error
        changed = _describe_change(self._first_seen.setdefault(target, export), export)
        return ProbeResult(
            facts={
                EXPORT_READ_ONLY: False if self.check.write else None,
                IDENTITY: export.fsid,
                SPACE: {"total": export.total, "available": export.available},
                LEASE: export.lease,
            },
            degraded=(Reason.EXPORT, f"{self.options.export}: {changed}: remount it") if changed else None,
            unusable=(Reason.NO_SPACE, f"{self.options.export}: none of {export.total} bytes is free")
            if export.is_full
            else None,
        )


def _describe_change(first: nfs4.NfsExport, now: nfs4.NfsExport) -> str:
    """Return a description of a change that makes existing mounts stale; empty if the export has no such change."""
    if first.fsid != now.fsid:
        return f"the target exports a different file system than before ({first.fsid}, now {now.fsid})"
    return "the target exports a different directory than before" if first.handle != now.handle else ""


def _volume(options: NfsOptions, listener: Endpoint, hold: float) -> VolumeSpec | None:
    """Return the definition of the volume. A mount waits for the server for at least `hold` seconds before it fails.

    Docker's driver calls mount(2), which rejects options that only mount.nfs implements, such as `retry` and `bg`.
    The definition always contains the NFS version, because the kernel's default is version 3.
    """
    volume = options.volume
    if volume is None:
        return None
    address = mount_address(volume, listener)
    device = f"{f'[{address}]' if ':' in address else address}:{options.export}"
    proto = "tcp6" if ":" in address else "tcp"
    mount_options = ("nfsvers=4.2", f"proto={proto}", "hard", f"timeo={_TIMEO * 10}", f"retrans={_retrans(hold)}")
    return build_volume(volume, listener, "nfs", options.export, device, mount_options)


def _retrans(hold: float) -> int:
    """Return the value of the mount option `retrans` with which a new mount waits for at least `hold` seconds.

    `retrans` is the number of retransmissions before a call fails (nfs(5)). Over TCP, a call fails after
    `_TIMEO * (1 + retrans)` seconds, but after 600 s at the latest (`NFS_MAX_TCP_TIMEOUT`). A new mount then fails.
    """
    return min(max(2, math.ceil(hold / _TIMEO)), _MAX_RETRANS)


def _volume_problems(options: NfsOptions) -> Iterator[tuple[str, str]]:
    """Yield each key that a volume does not support, and the reason. Implements `KernelMountRules.problems`."""
    if not options.export.startswith("/") or ".." in options.export.split("/"):
        yield "export", f"{options.export!r} must begin with / and contain no .. if volume is set"
    volume = options.volume
    if volume is not None and "noresvport" in volume.mount_options and not options.allow_unprivileged_ports:
        yield "volume.mount_options", "noresvport: needs allow_unprivileged_ports: true"


def _persistent_volume(volume: VolumeSpec) -> dict[str, Any]:
    """Return the NFS-specific keys of a PersistentVolume. Implements `KernelMountRules.persistent_volume`."""
    source = {"server": volume.address, "path": volume.export, "readOnly": volume.read_only}
    return {"nfs": source, "mountOptions": kubernetes_options(volume)}


def _import_volume(driver_options: Mapping[str, str]) -> ImportedVolume:
    """Convert a Docker volume's driver options to a backend. Implements `KernelMountRules.import_volume`."""
    mount = dict(part.strip().partition("=")[::2] for part in driver_options.get("o", "").split(","))
    server, _, export = driver_options.get("device", "").rpartition(":")
    named, server = server, (mount.pop("addr", "") or server).strip("[]")
    if not server or not export:
        raise ValueError("the server (addr=) or the export (device) is missing")
    if not export.startswith("/"):
        raise ValueError(f"the export {export} does not begin with /")
    port = mount.pop("port", "") or str(_PORT)
    if not port.isdecimal():
        raise ValueError(f"port={port} is not a port number")
    version = mount.pop("nfsvers", "") or mount.pop("vers", "") or "4"
    kept, notes = _imported_options(mount)
    if named.strip("[]") not in ("", server):
        notes.append(f"the device names {named}, but the target is addr={server}")
    if not version.startswith("4"):
        notes.append(f"NFS version {version} is not supported: the volume uses version 4.2")
    elif version in ("4.0", "4.1"):
        kept.insert(0, f"nfsvers={version}")
    volume: dict[str, Any] = {"read_only": True} if "ro" in mount else {}
    keys = {"targets": [str(Endpoint(server, int(port)))], "export": export}
    return keys | {"volume": volume | ({"mount_options": kept} if kept else {})}, notes


def _imported_options(mount: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the mount options to import, and notes for the user about the other options."""
    written = {name: f"{name}={value}" if value else name for name, value in mount.items()}
    kept = [text for name, text in written.items() if name in _IMPORTED_OPTIONS]
    others = [text for name, text in written.items() if name not in {*_IMPORTED_OPTIONS, "ro", "rw", "hard", ""}]
    return kept, [f"mount options that are not imported: {', '.join(others)}"] if others else []


def _render_export(options: NfsOptions, clients: Sequence[str]) -> str:
    """Return the line for /etc/exports on the server (exports(5)). Implements `KernelMountRules.render_export`.

    The line contains the option `insecure`, because sshd and the gateway connect from ports above 1023.
    """
    mode = "ro" if options.volume is not None and options.volume.read_only else "rw"
    path = re.sub(r'[\s"#\\]', lambda match: f"\\{ord(match[0]):03o}", options.export)
    return " ".join((path, *(f"{client}({mode},sync,no_subtree_check,insecure)" for client in clients)))


def _read_url(scheme: str, path: str) -> dict[str, str]:
    """Return a URL's path as the key `export`. Implements `BackendKind.read_url`."""
    del scheme
    return {"export": path} if path.strip("/") else {}


def _advice(backends: Sequence[ConfiguredBackend]) -> Iterator[str]:
    """Warn if `hold` exceeds the kernel's limit, and if several backends use the same NFS server.

    If a host mounts two backends of the same server, its kernel uses one connection for both mounts (RFC 8881,
    section 2.10.5). The traffic of both mounts then passes through the same backend.
    """
    first: dict[object, str] = {}
    longest = _TIMEO * (1 + _MAX_RETRANS)
    for backend in backends:
        if backend.hold > longest:
            yield (
                f"backend {backend.name}: hold is {backend.hold:g} s, but the kernel waits for a mount for at most"
                f" {longest} s: set hold to {longest}s or less"
            )
        for target in backend.targets:
            servers = [(tunnel, target) for tunnel in backend.paths(target) or (None,)]
            other = next((first[each] for each in servers if each in first), backend.name)
            first = dict.fromkeys(servers, backend.name) | first
            if other != backend.name:
                yield (
                    f"backend {backend.name}: {target} is also the server of backend {other}, and a kernel"
                    " treats two ports of one NFS server as one server: mount every export through one backend."
                )
                break


KIND = BackendKind(
    "nfs",
    NfsOptions,
    NfsCheckOptions,
    NfsBackend,
    schemes=("nfs",),
    default_port=_PORT,
    read_url=_read_url,
    hold=Duration(300.0),
    traffic_class=TrafficClass.BULK,
    mount=KernelMountRules(
        file_systems=("nfs",),
        build=_volume,
        versions=_VERSIONS,
        reserved=_RESERVED,
        problems=_volume_problems,
        persistent_volume=_persistent_volume,
        import_volume=_import_volume,
        render_export=_render_export,
    ),
    facts=(EXPORT_READ_ONLY, IDENTITY, SPACE, LEASE),
    tap=RpcLatencyTap,
    response_timeout=1.5,
    imports=ImportedBackendDefaults(keys={"export": "/"}, note="set export to the path that is mounted"),
    advice=_advice,
    privileged_only=lambda options: not options.allow_unprivileged_ports,
    remedies={
        Reason.PERMISSION: "permit the gateway's address on the server (gateway render exports prints the line)",
    },
)
