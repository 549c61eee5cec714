"""Defines `kind: nfs` for NFSv4 exports. The probe does not mount the export, because a mount can hang."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.backend_support.nfs_kernel_mounts import (
    DEFAULT_HOLD,
    DEFAULT_PORT,
    MAX_MOUNT_WAIT,
    NFS_MOUNT_PROPERTIES,
    NfsBackendOptions,
)
from gateway.backends import BackendKind, BackendSettings, ImportedBackendDefaults
from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import Duration, HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.states import TrafficClass
from gateway.errors import FailureReason, UnusableTargetError
from gateway.facts import IDENTITY, FactDefinition, hidden
from gateway.nfs import nfs4
from gateway.nfs.export_probe import ExportProbe
from gateway.nfs.latency_tap import RpcLatencyTap
from gateway.nfs.nfs4_compound import Nfs4StatusError
from gateway.nfs.rpc import RpcClient, RpcError
from gateway.nfs.xdr import XdrError
from gateway.text_sanitizer import error_text, format_bytes

EXPORT_READ_ONLY = FactDefinition(
    "read_only", "Whether the export refuses writes. Not known unless `check.write` is set.", describe=hidden
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
    nfs4.NFS4ERR_NOENT: FailureReason.EXPORT,
    nfs4.NFS4ERR_NOTDIR: FailureReason.EXPORT,
    nfs4.NFS4ERR_PERM: FailureReason.PERMISSION,
    nfs4.NFS4ERR_ACCESS: FailureReason.PERMISSION,
    nfs4.NFS4ERR_WRONGSEC: FailureReason.PERMISSION,
    nfs4.NFS4ERR_NOSPC: FailureReason.NO_SPACE,
    nfs4.NFS4ERR_DQUOT: FailureReason.NO_SPACE,
    nfs4.NFS4ERR_ROFS: FailureReason.READ_ONLY,
    nfs4.NFS4ERR_STALE: FailureReason.EXPORT,
    nfs4.NFS4ERR_FHEXPIRED: FailureReason.EXPORT,
    nfs4.NFS4ERR_DELAY: FailureReason.STARTING,
    nfs4.NFS4ERR_GRACE: FailureReason.STARTING,
}


@dataclass(frozen=True)
class NfsCheckOptions:
    """The `check:` keys of an NFS backend.

    Args:
        write: Create and remove a directory in each probe, to detect full, read-only and over-quota exports.
    """

    write: bool = False


class NfsBackend:
    """An NFS backend, whose probe sends RPC calls; implements `gateway.contracts.backend.Backend`.

    Args:
        options: The options of the backend.
        check: The `check:` keys of the backend.
    """

    def __init__(self, options: NfsBackendOptions, check: NfsCheckOptions) -> None:
        self.options = options
        self.check = check
        self._export_probe = ExportProbe(options.export, write=check.write)
        self._first_seen: dict[HostPort, nfs4.NfsExport] = {}
        """For each target: the properties that the export had at the first probe. Later probes detect changes."""

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        """Query the export on `target`; see `gateway.contracts.backend.Backend`.

        If `check.write` is set, also create and remove a directory, unless the export is full.
        """
        with await link.socket(target, phases) as sock:
            client = RpcClient(sock, nfs4.PROGRAM, nfs4.VERSION)
            try:
                with phases("greeting"):
                    await nfs4.null(client)
                export = await self._export_probe.query(client, target, phases)
            except RpcError as error:
                versions = (
                    f" (the server supports versions {error.versions[0]} to {error.versions[1]})"
                    if error.versions
                    else ""
                )
                raise UnusableTargetError(
                    FailureReason.PERMISSION if error.denied else FailureReason.PROTOCOL, f"{error}{versions}"
                ) from error
            except Nfs4StatusError as error:
                raise UnusableTargetError(
                    _REASONS.get(error.status, FailureReason.PROTOCOL), f"{self.options.export}: {error}"
                ) from error
            except XdrError as error:
                raise UnusableTargetError(
                    FailureReason.PROTOCOL,
                    f"not a valid NFS response ({error}): check that the target is an NFS server",
                ) from error
            except OSError as error:
                raise UnusableTargetError(FailureReason.RESET, error_text(error)) from error
        changed = _describe_change(self._first_seen.setdefault(target, export), export)
        return ProbeResult(
            facts={
                EXPORT_READ_ONLY: False if self.check.write else None,
                IDENTITY: export.fsid,
                SPACE: {"total": export.total, "available": export.available},
                LEASE: export.lease,
            },
            degraded=(FailureReason.EXPORT, f"{self.options.export}: {changed}: remount the export")
            if changed
            else None,
            unusable=(FailureReason.NO_SPACE, f"{self.options.export}: none of {export.total} bytes is free")
            if export.is_full
            else None,
        )


def _describe_change(first: nfs4.NfsExport, now: nfs4.NfsExport) -> str:
    """Return a description of a change that makes existing mounts of the export stale; empty if there is none."""
    if first.fsid != now.fsid:
        return f"the target exports a different file system than before ({first.fsid}, now {now.fsid})"
    return "the target exports a different directory than before" if first.handle != now.handle else ""


def _read_url(scheme: str, path: str) -> dict[str, str]:
    """Return the path of a URL as `export`. Implements `BackendKind.read_url`."""
    del scheme
    return {"export": path} if path.strip("/") else {}


def _advice(backends: Sequence[BackendSettings]) -> Iterator[str]:
    """Yield a warning for each backend whose `hold` exceeds the maximum time that the kernel waits for a mount.

    Also yield a warning for each backend that has the same NFS server as an earlier backend. If a host mounts two
    backends of the same server, its kernel uses one connection for both mounts (RFC 8881, section 2.10.5). The
    traffic of both mounts then passes through the same backend.
    """
    first: dict[object, str] = {}
    for backend in backends:
        if backend.hold > MAX_MOUNT_WAIT:
            yield (
                f"backend {backend.name}: hold is {backend.hold:g} s, but the kernel waits for a mount for at most"
                f" {MAX_MOUNT_WAIT} s: set hold to {MAX_MOUNT_WAIT}s or less"
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
    NfsBackendOptions,
    NfsCheckOptions,
    NfsBackend,
    schemes=("nfs",),
    default_port=DEFAULT_PORT,
    read_url=_read_url,
    hold=Duration(DEFAULT_HOLD),
    traffic_class=TrafficClass.BULK,
    mount=NFS_MOUNT_PROPERTIES,
    facts=(EXPORT_READ_ONLY, IDENTITY, SPACE, LEASE),
    tap=RpcLatencyTap,
    response_timeout=1.5,
    imports=ImportedBackendDefaults(keys={"export": "/"}, note="set export to the path of the exported directory"),
    advice=_advice,
    privileged_only=lambda options: not options.allow_unprivileged_ports,
    remedies={
        FailureReason.PERMISSION: (
            "permit the gateway's address on the server (gateway render exports prints the line)"
        ),
    },
)
