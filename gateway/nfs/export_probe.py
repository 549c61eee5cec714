"""Queries an NFS export for health checks, over NFSv4.0 or in an NFSv4.1 session."""

import functools
import hashlib
import secrets
import socket
from itertools import count

from gateway.contracts.config_types import HostPort
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import FailureReason, UnusableTargetError
from gateway.nfs import nfs4
from gateway.nfs.nfs4_compound import Nfs4StatusError
from gateway.nfs.nfs41_session import SESSION_LOST, Nfs41Session
from gateway.nfs.rpc import RpcClient

CANARY = f".gateway-canary-{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}"
"""Name of the directory that the write check creates. The name contains a hash of the host name, so that gateways
on several hosts can check the same export."""
_QueryKey = tuple[HostPort, int]
"""The key of a query: the target, and a number that distinguishes simultaneous queries of one target."""


@functools.cache
def _instance_id() -> str:
    """Return the part of the client owner (RFC 8881, section 2.4) that distinguishes this process from others."""
    return secrets.token_hex(4)


class ExportProbe:
    """Queries an NFS export for the health check of an NFS backend.

    Args:
        path: Path of the exported directory in the server's pseudo file system.
        write: Whether each query also checks that the export is writable, by creating and removing a directory. The
            query skips this check while the export is full.
    """

    def __init__(self, path: str, *, write: bool) -> None:
        self._path = path
        self._write = write
        self._sessions: dict[_QueryKey, Nfs41Session] = {}
        """The NFSv4.1 sessions with targets that do not support NFSv4.0. Queries reuse the sessions, because a new
        session for each query would leave many unused sessions on the server."""
        self._in_use: set[_QueryKey] = set()
        """The keys of the queries in progress. Each query needs a separate session, because a session permits only
        one request at a time."""

    async def query(self, client: RpcClient, target: HostPort, phases: PhaseTimer) -> nfs4.NfsExport:
        """Query the export with NFSv4.0, or with an NFSv4.1 session if the server does not support NFSv4.0.

        Args:
            client: The RPC client, connected to the target.
            target: The target.
            phases: Records the durations of the read requests (phase `rpc`) and the write check (phase `query`).

        Raises:
            UnusableTargetError: The server does not permit reading the export.
            Nfs4StatusError: The server refuses an NFS operation.
            RpcError: The server refuses an RPC call, or cannot execute it.
            XdrError: A reply of the server is not valid.
            OSError: The connection has failed.
        """
        key = next((target, number) for number in count() if (target, number) not in self._in_use)
        self._in_use.add(key)
        try:
            return await self._query(client, key, phases)
        finally:
            self._in_use.remove(key)

    async def _query(self, client: RpcClient, key: _QueryKey, phases: PhaseTimer) -> nfs4.NfsExport:
        if key not in self._sessions:
            try:
                return await self._query_with(None, client, key, phases)
            except Nfs4StatusError as error:
                if error.status != nfs4.NFS4ERR_MINOR_VERS_MISMATCH:
                    raise
        session = self._sessions.pop(key, None)
        if session is not None:
            try:
                return await self._query_with(session, client, key, phases)
            except Nfs4StatusError as error:
                if error.status not in SESSION_LOST:
                    raise
        target, number = key
        session = Nfs41Session(
            f"gateway-check {socket.gethostname()} {_instance_id()} {target} {self._path} {number}"
        )
        await nfs4.open_session(client, session)
        return await self._query_with(session, client, key, phases)

    async def _query_with(
        self, session: Nfs41Session | None, client: RpcClient, key: _QueryKey, phases: PhaseTimer
    ) -> nfs4.NfsExport:
        """Query the export with an NFSv4.1 session, or with NFSv4.0 if `session` is None.

        Keep the session for the next query, unless a request received no valid reply (for example, because of a
        timeout), or the server reports that the session is lost.
        """
        try:
            with phases("rpc"):
                export = await nfs4.query_export(client, self._path, session)
            self._check_readable(export)
            if self._write and not export.is_full:
                with phases("query"):
                    await nfs4.create_and_remove(client, self._path, CANARY, session)
        except Nfs4StatusError as error:
            if error.status not in SESSION_LOST:
                self._keep(session, key)
            raise
        except UnusableTargetError:
            self._keep(session, key)
            raise
        self._keep(session, key)
        return export

    def _check_readable(self, export: nfs4.NfsExport) -> None:
        if not export.readable:
            raise UnusableTargetError(
                FailureReason.PERMISSION, f"{self._path}: the server does not permit reading this directory"
            )

    def _keep(self, session: Nfs41Session | None, key: _QueryKey) -> None:
        if session is not None:
            self._sessions[key] = session
