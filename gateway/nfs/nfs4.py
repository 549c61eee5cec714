"""Sends NFSv4 requests for health checks: queries an export, and creates and removes a directory.

Requests without a session use NFSv4.0 and are stateless (RFC 7530). Requests with a session use NFSv4.1 (RFC 8881).
"""

from dataclasses import dataclass

from gateway.nfs.nfs4_compound import (
    ACCESS,
    CREATE,
    GETATTR,
    GETFH,
    LOOKUP,
    PUTROOTFH,
    REMOVE,
    Nfs4StatusError,
    Operation,
    read_result_header,
    send_compound,
)
from gateway.nfs.nfs41_session import CREATE_SESSION, EXCHANGE_ID, Nfs41Session
from gateway.nfs.rpc import RpcClient
from gateway.nfs.xdr import XdrError, XdrReader, opaque, uint

PROGRAM = 100003
VERSION = 4

_NULL = 0
_NF4DIR = 2
_ACCESS_READ, _ACCESS_LOOKUP = 0x1, 0x2
_TYPE, _FSID, _LEASE_TIME, _SPACE_AVAIL, _SPACE_TOTAL = 1, 8, 10, 42, 44
_MODE = 33
_CREATE_ATTEMPTS = 5
"""Maximum number of attempts to create a directory. An attempt fails with NFS4ERR_NOENT if another client removes the
new directory during the attempt."""

NFS4ERR_PERM, NFS4ERR_NOENT, NFS4ERR_ACCESS, NFS4ERR_EXIST = 1, 2, 13, 17
NFS4ERR_NOTDIR, NFS4ERR_NOSPC, NFS4ERR_ROFS, NFS4ERR_DQUOT = 20, 28, 30, 69
NFS4ERR_STALE, NFS4ERR_FHEXPIRED = 70, 10014
NFS4ERR_WRONGSEC, NFS4ERR_DELAY, NFS4ERR_GRACE = 10016, 10008, 10013
NFS4ERR_MINOR_VERS_MISMATCH = 10021


@dataclass(frozen=True)
class NfsExport:
    """The properties of an NFS export that a health check reads from the server.

    Args:
        readable: Whether the server permits reading the exported directory.
        fsid: The ID of the file system, as two hexadecimal numbers.
        handle: The file handle of the directory. If it changes, the mounts of clients become stale.
        total: Size of the file system, in bytes.
        available: Free space for the user of the request, in bytes.
        lease: Lease time, in seconds. If a client sends nothing during this time, the server can discard the client's
            state.
    """

    readable: bool
    fsid: str
    handle: bytes
    total: int
    available: int
    lease: int

    @property
    def is_full(self) -> bool:
        """Whether the file system is full. False if the server does not report its size."""
        return bool(self.total and not self.available)


async def null(client: RpcClient) -> None:
    """Call the NULL procedure, which does nothing, to find out whether the server supports NFSv4.

    Args:
        client: The RPC client.

    Raises:
        RpcError: See `RpcClient.call`.
        XdrError: See `RpcClient.call`.
        OSError: See `RpcClient.call`.
    """
    await client.call(_NULL)


async def open_session(client: RpcClient, session: Nfs41Session) -> None:
    """Create a session on the server with EXCHANGE_ID and CREATE_SESSION (RFC 8881, sections 18.35 and 18.36).

    Args:
        client: The RPC client.
        session: A new session, which receives the IDs that the server assigns.

    Raises:
        Nfs4StatusError: The server refuses the session.
        RpcError: See `RpcClient.call`.
        XdrError: See `RpcClient.call`.
        OSError: See `RpcClient.call`.
    """
    reply = await send_compound(client, [(EXCHANGE_ID, session.exchange_id_arguments())], minor=1)
    read_result_header(reply)
    session.read_exchange_id(reply)
    reply = await send_compound(client, [(CREATE_SESSION, session.create_session_arguments())], minor=1)
    read_result_header(reply)
    session.read_create_session(reply)


async def query_export(client: RpcClient, path: str, session: Nfs41Session | None = None) -> NfsExport:
    """Query the properties of an exported directory.

    Args:
        client: The RPC client.
        path: Path of the directory in the server's pseudo file system.
        session: An open NFSv4.1 session; None to use NFSv4.0.

    Raises:
        Nfs4StatusError: The server refuses an operation, or `path` is not a directory.
        RpcError: See `RpcClient.call`.
        XdrError: See `RpcClient.call`.
        OSError: See `RpcClient.call`.
    """
    access_bits = _ACCESS_READ | _ACCESS_LOOKUP
    attributes = _bitmap(_TYPE, _FSID, _LEASE_TIME, _SPACE_AVAIL, _SPACE_TOTAL)
    lookups = _lookups(path)
    operations = [*lookups, (ACCESS, uint(access_bits)), (GETFH, b""), (GETATTR, attributes)]
    reply = await send_compound(client, operations, session)
    for _ in lookups:
        read_result_header(reply)
    read_result_header(reply)
    reply.uint()
    access = reply.uint()
    read_result_header(reply)
    handle = reply.opaque()
    read_result_header(reply)
    present, values = reply.bitmap(), XdrReader(reply.opaque())
    fsid, lease, available, total = "", 0, 0, 0
    for attribute in present:  # the values are in the order of the attribute numbers (RFC 7530, section 5.8)
        if attribute == _TYPE:
            if values.uint() != _NF4DIR:
                raise Nfs4StatusError(NFS4ERR_NOTDIR, "GETATTR")
        elif attribute == _FSID:
            fsid = f"{values.uhyper():x}:{values.uhyper():x}"
        elif attribute == _LEASE_TIME:
            lease = values.uint()
        elif attribute == _SPACE_AVAIL:
            available = values.uhyper()
        elif attribute == _SPACE_TOTAL:
            total = values.uhyper()
        else:
            raise XdrError(f"the reply contains attribute {attribute}, which was not requested")
    return NfsExport(
        readable=bool(access & access_bits),
        fsid=fsid,
        handle=handle,
        total=total,
        available=available,
        lease=lease,
    )


async def create_and_remove(client: RpcClient, path: str, name: str, session: Nfs41Session | None = None) -> None:
    """Create a directory and remove it, to find out whether the export is writable.

    The call also succeeds if the directory already exists, or if another client removes the directory first. The call
    fails if `name` is a file.

    Args:
        client: The RPC client.
        path: Path of the parent directory in the server's pseudo file system.
        name: Name of the directory.
        session: An open NFSv4.1 session; None to use NFSv4.0.

    Raises:
        Nfs4StatusError: The server refuses an operation.
        RpcError: See `RpcClient.call`.
        XdrError: See `RpcClient.call`.
        OSError: See `RpcClient.call`.
    """
    lookups = _lookups(path)
    mode = _bitmap(_MODE) + opaque(uint(0o700))
    create = uint(_NF4DIR) + opaque(name.encode()) + mode
    for attempts_left in reversed(range(_CREATE_ATTEMPTS)):
        try:
            await send_compound(client, [*lookups, (CREATE, create)], session)
            break
        except Nfs4StatusError as error:
            if error.status == NFS4ERR_EXIST:
                break
            if error.status != NFS4ERR_NOENT or not attempts_left:
                raise
    try:
        await query_export(client, f"{path}/{name}", session)  # fails if the path is not a directory
        await send_compound(client, [*lookups, (REMOVE, opaque(name.encode()))], session)
    except Nfs4StatusError as error:
        if error.status not in (NFS4ERR_NOENT, NFS4ERR_STALE):
            raise


def _lookups(path: str) -> list[Operation]:
    """Return the operations that set the current file handle to the handle of `path`."""
    parts = [part for part in path.split("/") if part]
    return [(PUTROOTFH, b""), *((LOOKUP, opaque(part.encode())) for part in parts)]


def _bitmap(*attributes: int) -> bytes:
    words = [0] * (max(attributes) // 32 + 1)
    for attribute in attributes:
        words[attribute // 32] |= 1 << attribute % 32
    return uint(len(words)) + b"".join(uint(word) for word in words)
