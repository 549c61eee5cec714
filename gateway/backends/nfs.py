"""`kind: nfs`: an NFSv4 export, asked over RPC; nothing is ever mounted, so nothing can hang."""

import hashlib
import secrets
import socket
from dataclasses import dataclass, field

from gateway.backends import BackendKind
from gateway.backends.common.volume import VolumeOptions, VolumeSpec, reached_at, volume_of
from gateway.contracts import Duration, Endpoint, Finding, Link, Phases
from gateway.errors import ProbeError, Reason
from gateway.nfs import v4
from gateway.nfs.nfs41_session import LOST, Session
from gateway.nfs.rpc import RpcClient, RpcError
from gateway.nfs.tap import RpcTap
from gateway.nfs.xdr import XdrError

CANARY = f".gateway-canary-{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}"
"""Each host has one of its own: many gateways may check one export."""
_OWNER = secrets.token_hex(4)
_REASONS = {
    v4.NFS4ERR_NOENT: Reason.EXPORT,
    v4.NFS4ERR_NOTDIR: Reason.EXPORT,
    v4.NFS4ERR_PERM: Reason.PERMISSION,
    v4.NFS4ERR_ACCESS: Reason.PERMISSION,
    v4.NFS4ERR_WRONGSEC: Reason.PERMISSION,
    v4.NFS4ERR_NOSPC: Reason.NO_SPACE,
    v4.NFS4ERR_DQUOT: Reason.NO_SPACE,
    v4.NFS4ERR_ROFS: Reason.READ_ONLY,
    v4.NFS4ERR_STALE: Reason.EXPORT,
    v4.NFS4ERR_FHEXPIRED: Reason.EXPORT,
    v4.NFS4ERR_DELAY: Reason.STARTING,
    v4.NFS4ERR_GRACE: Reason.STARTING,
}


@dataclass(frozen=True)
class NfsOptions:
    """What only an NFS backend has.

    Args:
        export: The directory to look at, as the server's pseudo file system names it.
        allow_unprivileged_ports: Accept clients from source ports above 1023, for containers behind NAT.
        volume: A Docker volume that leads to it, kept by the gateway.
    """

    export: str
    allow_unprivileged_ports: bool = False
    volume: VolumeOptions | None = None


@dataclass(frozen=True)
class NfsCheck:
    """How an export is checked.

    Args:
        write: Create and remove a directory at each check: finds full, read-only and over-quota exports.
    """

    write: bool = False


@dataclass(frozen=True)
class NfsBackend:
    """See `gateway.contracts.Backend`.

    Args:
        options: The export.
        check: Whether to write.
    """

    options: NfsOptions
    check: NfsCheck
    _sessions: dict[Endpoint, Session] = field(default_factory=dict, compare=False)
    """Of targets that do not speak NFSv4.0: one for each, since a server remembers every new one for a while."""
    _seen: dict[Endpoint, v4.Export] = field(default_factory=dict, compare=False)
    """What each target showed first."""

    async def probe(self, link: Link, target: Endpoint, phases: Phases) -> Finding:
        """RPC NULL, then a look at the export with its space; the canary where it is asked for."""
        with await link.socket(target, phases) as sock:
            client = RpcClient(sock, v4.PROGRAM, v4.VERSION)
            try:
                with phases("greeting"):
                    await v4.null(client)
                export = await self._look(client, target, phases)
            except RpcError as error:
                spoken = f" (it speaks {error.versions[0]} to {error.versions[1]})" if error.versions else ""
                raise ProbeError(
                    Reason.PERMISSION if error.denied else Reason.PROTOCOL, f"{error}{spoken}"
                ) from error
            except v4.NfsError as error:
                raise ProbeError(
                    _REASONS.get(error.status, Reason.PROTOCOL), f"{self.options.export}: {error}"
                ) from error
            except XdrError as error:
                raise ProbeError(Reason.PROTOCOL, f"not an NFS server: {error}") from error
            except OSError as error:
                raise ProbeError(Reason.RESET, str(error)) from error
        changed = self._changed(self._seen.setdefault(target, export), export)
        return Finding(
            read_only=False if self.check.write else None,
            identity=export.fsid,
            space={"total": export.total, "available": export.available},
            lease=export.lease,
            degraded=(Reason.EXPORT, f"{self.options.export}: {changed}: mount it anew") if changed else None,
            unusable=(Reason.NO_SPACE, f"{self.options.export}: no space left of {export.total} bytes")
            if _is_full(export)
            else None,
        )

    @staticmethod
    def _changed(first: v4.Export, now: v4.Export) -> str:
        """What makes mounts stale that were made when it was as at first."""
        if first.fsid != now.fsid:
            return f"another file system than before ({first.fsid}, now {now.fsid})"
        return "another directory than before" if first.handle != now.handle else ""

    async def _look(self, client: RpcClient, target: Endpoint, phases: Phases) -> v4.Export:
        """With NFSv4.0, which needs no state; with 4.1 where the server refuses that."""
        if target not in self._sessions:
            try:
                return await self._ask(client, None, target, phases)
            except v4.NfsError as error:
                if error.status != v4.NFS4ERR_MINOR_VERS_MISMATCH:
                    raise
        session = self._sessions.pop(target, None)
        if session is not None:
            try:
                return await self._ask(client, session, target, phases)
            except v4.NfsError as error:
                if error.status not in LOST:
                    raise
        session = Session(f"gateway-check {socket.gethostname()} {_OWNER} {target} {self.options.export}")
        await v4.open_session(client, session)
        return await self._ask(client, session, target, phases)

    async def _ask(self, client: RpcClient, session: Session | None, target: Endpoint, phases: Phases) -> v4.Export:
        try:
            with phases("rpc"):
                export = await v4.look(client, self.options.export, session)
            self._judge(export)
            if self.check.write and not _is_full(export):
                with phases("query"):
                    await v4.create_and_remove(client, self.options.export, CANARY, session)
        except v4.NfsError as error:
            self._keep(session, target, known=error.status not in LOST)
            raise
        except ProbeError:
            self._keep(session, target, known=True)
            raise
        self._keep(session, target, known=True)
        return export

    def _keep(self, session: Session | None, target: Endpoint, *, known: bool) -> None:
        """Go on with a session that the server answered; one whose answer did not come is of unknown standing."""
        if session is not None and known:
            self._sessions[target] = session

    def _judge(self, export: v4.Export) -> None:
        if not export.readable:
            raise ProbeError(Reason.PERMISSION, f"{self.options.export}: may not be read")


def _is_full(export: v4.Export) -> bool:
    return bool(export.total and not export.available)


def _volume(options: NfsOptions, listener: Endpoint) -> VolumeSpec | None:
    """The volume's options for mount(2), which is what Docker's driver calls: what only mount.nfs knows is no good.

    The version is always there, since the kernel's own choice would be 3; `retry`, `bg` and `intr` never are.
    """
    wanted = options.volume
    if wanted is None:
        return None
    address = reached_at(wanted, listener)
    device = f"{f'[{address}]' if ':' in address else address}:{options.export}"
    proto = "tcp6" if ":" in address else "tcp"
    how = ("nfsvers=4.2", f"proto={proto}", "hard", "timeo=600", "retrans=2")
    return volume_of(wanted, listener, "nfs", options.export, device, how)


KIND = BackendKind(
    "nfs",
    NfsOptions,
    NfsCheck,
    NfsBackend,
    scheme="nfs",
    default_port=2049,
    hold=Duration(300.0),
    bulk=True,
    tap=RpcTap,
    prompt=1.5,
    volume=_volume,
    privileged_only=lambda options: not options.allow_unprivileged_ports,
)
