"""Queries an export as a check does, with NFSv4.0 or in a session of NFSv4.1."""

import hashlib
import secrets
import socket

from gateway.contracts.phases import Phases
from gateway.contracts.values import Endpoint
from gateway.errors import ProbeError, Reason
from gateway.nfs import v4
from gateway.nfs.nfs41_session import SESSION_LOST, Nfs41Session
from gateway.nfs.rpc import RpcClient

CANARY = f".gateway-canary-{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}"
"""Name of the directory that the write check creates. It depends on the host, because several gateways may check one
export."""
_INSTANCE_ID = secrets.token_hex(4)
"""Part of the client owner of NFSv4.1 sessions that distinguishes this process from others."""


class ExportProbe:
    """Queries one export on its targets.

    Args:
        path: Path of the exported directory in the server's pseudo file system.
        write: Whether to create and remove a directory, unless the export is full.
    """

    def __init__(self, path: str, *, write: bool) -> None:
        self._path = path
        self._write = write
        self._sessions: dict[Endpoint, Nfs41Session] = {}
        """A session for each target without NFSv4.0. Probes reuse it, because servers keep each session for some
        time."""

    async def query(self, client: RpcClient, target: Endpoint, phases: Phases) -> v4.Export:
        """Query the export with NFSv4.0, which needs no session, or with NFSv4.1 if the server requires that.

        Args:
            client: A connection to the target.
            target: The target.
            phases: Receives the phases `rpc` and, with `write`, `query`.

        Raises:
            ProbeError: Permission to read is denied.
            NfsError: The server refuses a call.
            RpcError, XdrError: The server does not understand a call, or its reply is invalid.
            OSError: The connection failed.
        """
        if target not in self._sessions:
            try:
                return await self._query_with(None, client, target, phases)
            except v4.NfsError as error:
                if error.status != v4.NFS4ERR_MINOR_VERS_MISMATCH:
                    raise
        session = self._sessions.pop(target, None)
        if session is not None:
            try:
                return await self._query_with(session, client, target, phases)
            except v4.NfsError as error:
                if error.status not in SESSION_LOST:
                    raise
        session = Nfs41Session(f"gateway-check {socket.gethostname()} {_INSTANCE_ID} {target} {self._path}")
        await v4.open_session(client, session)
        return await self._query_with(session, client, target, phases)

    async def _query_with(
        self, session: Nfs41Session | None, client: RpcClient, target: Endpoint, phases: Phases
    ) -> v4.Export:
        """Query the export with a session, or with NFSv4.0.

        The probe keeps the session only if the server has replied and still knows the session. Otherwise the state of
        the session is unknown.
        """
        try:
            with phases("rpc"):
                export = await v4.query_export(client, self._path, session)
            self._check_readable(export)
            if self._write and not export.is_full:
                with phases("query"):
                    await v4.create_and_remove(client, self._path, CANARY, session)
        except v4.NfsError as error:
            if error.status not in SESSION_LOST:
                self._keep(session, target)
            raise
        except ProbeError:
            self._keep(session, target)
            raise
        self._keep(session, target)
        return export

    def _check_readable(self, export: v4.Export) -> None:
        if not export.readable:
            raise ProbeError(Reason.PERMISSION, f"{self._path}: permission to read is denied")

    def _keep(self, session: Nfs41Session | None, target: Endpoint) -> None:
        if session is not None:
            self._sessions[target] = session
