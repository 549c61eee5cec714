"""Queries an NFS export for health checks, over NFSv4.0 or in an NFSv4.1 session."""

import hashlib
import secrets
import socket
from itertools import count

from gateway.contracts.phases import Phases
from gateway.contracts.values import Endpoint
from gateway.errors import Reason, UnusableTargetError
from gateway.nfs import nfs4
from gateway.nfs.nfs41_session import SESSION_LOST, Nfs41Session
from gateway.nfs.rpc import RpcClient

CANARY = f".gateway-canary-{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}"
"""Name of the directory that the write check creates. It contains a hash of the host name, so that gateways on
several hosts can check the same export."""
_Slot = tuple[Endpoint, int]
"""A target, and a number that distinguishes simultaneous queries of this target."""
_INSTANCE_ID = secrets.token_hex(4)
"""Part of the client owner (RFC 8881, section 2.4). It distinguishes this process from other NFSv4.1 clients."""


class ExportProbe:
    """Queries an NFS export for the health check of an NFS backend.

    Args:
        path: Path of the exported directory in the server's pseudo file system.
        write: Whether each query also checks that the export is writable, by creating and removing a directory. This
            check is skipped while the export is full.
    """

    def __init__(self, path: str, *, write: bool) -> None:
        self._path = path
        self._write = write
        self._sessions: dict[_Slot, Nfs41Session] = {}
        """The NFSv4.1 sessions with targets that do not support NFSv4.0. Queries reuse the sessions: a server keeps
        the state of an unused session for some time, so a new session for each query would fill the server's
        memory."""
        self._in_use: set[_Slot] = set()
        """The slots of the queries in progress. Each slot has a separate session, because a session carries one
        request at a time."""

    async def query(self, client: RpcClient, target: Endpoint, phases: Phases) -> nfs4.NfsExport:
        """Query the export with NFSv4.0, or with an NFSv4.1 session if the server does not support NFSv4.0.

        Args:
            client: The RPC client, connected to the target.
            target: The target.
            phases: Records how long the query takes (phase `rpc`), and the write check, if any (phase `query`).

        Raises:
            UnusableTargetError: The server does not permit reading the export.
            Nfs4StatusError: The server refuses an NFS operation.
            RpcError: The server refuses an RPC call, or cannot execute it.
            XdrError: A reply of the server is not valid.
            OSError: The connection has failed.
        """
        slot = next((target, number) for number in count() if (target, number) not in self._in_use)
        self._in_use.add(slot)
        try:
            return await self._query(client, slot, phases)
        finally:
            self._in_use.remove(slot)

    async def _query(self, client: RpcClient, slot: _Slot, phases: Phases) -> nfs4.NfsExport:
        if slot not in self._sessions:
            try:
                return await self._query_with(None, client, slot, phases)
            except nfs4.Nfs4StatusError as error:
                if error.status != nfs4.NFS4ERR_MINOR_VERS_MISMATCH:
                    raise
        session = self._sessions.pop(slot, None)
        if session is not None:
            try:
                return await self._query_with(session, client, slot, phases)
            except nfs4.Nfs4StatusError as error:
                if error.status not in SESSION_LOST:
                    raise
        target, number = slot
        session = Nfs41Session(f"gateway-check {socket.gethostname()} {_INSTANCE_ID} {target} {self._path} {number}")
        await nfs4.open_session(client, session)
        return await self._query_with(session, client, slot, phases)

    async def _query_with(
        self, session: Nfs41Session | None, client: RpcClient, slot: _Slot, phases: Phases
    ) -> nfs4.NfsExport:
        """Query the export with an NFSv4.1 session, or with NFSv4.0 if `session` is None.

        Keep the session for the next query only if the server has replied to every request and has not reported that
        the session is lost. Otherwise, the state of the session at the server is unknown.
        """
        try:
            with phases("rpc"):
                export = await nfs4.query_export(client, self._path, session)
            self._check_readable(export)
            if self._write and not export.is_full:
                with phases("query"):
                    await nfs4.create_and_remove(client, self._path, CANARY, session)
        except nfs4.Nfs4StatusError as error:
            if error.status not in SESSION_LOST:
                self._keep(session, slot)
            raise
        except UnusableTargetError:
            self._keep(session, slot)
            raise
        self._keep(session, slot)
        return export

    def _check_readable(self, export: nfs4.NfsExport) -> None:
        if not export.readable:
            raise UnusableTargetError(Reason.PERMISSION, f"{self._path}: the server does not permit reading it")

    def _keep(self, session: Nfs41Session | None, slot: _Slot) -> None:
        if session is not None:
            self._sessions[slot] = session
