"""NFSv4 (RFC 7530, RFC 8881): compounds that look at an export, and the create-and-remove canary.

Without a session they are NFSv4.0's and stateless; with one, NFSv4.1's.
"""

from dataclasses import dataclass

from gateway.nfs.nfs41_session import CREATE_SESSION, EXCHANGE_ID, SEQUENCE, Session
from gateway.nfs.rpc import RpcClient
from gateway.nfs.xdr import Reader, XdrError, opaque, uint

PROGRAM = 100003
VERSION = 4

_NULL, _COMPOUND = 0, 1
_ACCESS, _CREATE, _GETATTR, _GETFH, _LOOKUP, _PUTROOTFH, _REMOVE = 3, 6, 9, 10, 15, 24, 28
_NF4DIR = 2
_ACCESS_READ, _ACCESS_LOOKUP = 0x1, 0x2
_TYPE, _FSID, _LEASE_TIME, _SPACE_AVAIL, _SPACE_TOTAL = 1, 8, 10, 42, 44
_MODE = 33
_CREATE_ATTEMPTS = 5
"""A server makes a directory and then looks at it: between the two, somebody else may take it away."""

NFS4ERR_PERM, NFS4ERR_NOENT, NFS4ERR_ACCESS, NFS4ERR_EXIST = 1, 2, 13, 17
NFS4ERR_NOTDIR, NFS4ERR_NOSPC, NFS4ERR_ROFS, NFS4ERR_DQUOT = 20, 28, 30, 69
NFS4ERR_STALE, NFS4ERR_FHEXPIRED = 70, 10014
NFS4ERR_WRONGSEC, NFS4ERR_DELAY, NFS4ERR_GRACE = 10016, 10008, 10013
NFS4ERR_MINOR_VERS_MISMATCH = 10021


class NfsError(Exception):
    """An operation of a compound failed.

    Args:
        status: The `nfsstat4` of RFC 7530, section 13.
        operation: The operation that failed.
    """

    def __init__(self, status: int, operation: str) -> None:
        super().__init__(f"{operation}: {_NAMES.get(status, f'nfsstat4 {status}')}")
        self.status = status


_NAMES = {
    1: "operation not permitted", 2: "no such directory", 5: "input/output error", 13: "permission denied",
    17: "exists", 20: "not a directory", 28: "no space left", 30: "read-only file system",
    69: "quota exceeded", 70: "the directory is another one now",
    10013: "the server waits for its clients to come back", 10014: "the directory is another one now",
    10008: "the server asks to try later", 10016: "the export wants another security flavor",
    10021: "the server does not speak NFSv4.0",
}  # fmt: skip


@dataclass(frozen=True)
class Export:
    """What a look at an export tells.

    Args:
        readable: Whether its directory can be listed.
        fsid: The file system's identity.
        handle: The directory's: what a client that has mounted it goes on using.
        total: Bytes it holds.
        available: Bytes free for us.
        lease: Seconds that the server keeps the state of a silent client.
    """

    readable: bool
    fsid: str
    handle: bytes
    total: int
    available: int
    lease: int


async def null(client: RpcClient) -> None:
    """The procedure that does nothing: is there an NFSv4 server at all?"""
    await client.call(_NULL)


async def open_session(client: RpcClient, session: Session) -> None:
    """Make the session known to the server.

    Raises:
        NfsError: The server says no.
        RpcError, XdrError, OSError: As `RpcClient.call`.
    """
    reply = await _compound(client, [(EXCHANGE_ID, session.exchange_id())], minor=1)
    _next(reply)
    session.exchanged(reply)
    reply = await _compound(client, [(CREATE_SESSION, session.create_session())], minor=1)
    _next(reply)
    session.created(reply)


async def look(client: RpcClient, path: str, session: Session | None = None) -> Export:
    """Look at the directory `path`, counted from the server's pseudo-root.

    Args:
        client: Connected.
        path: The directory.
        session: Of NFSv4.1, open; None: with NFSv4.0.

    Raises:
        NfsError: The server says no.
        RpcError, XdrError, OSError: As `RpcClient.call`.
    """
    wanted = _ACCESS_READ | _ACCESS_LOOKUP
    attributes = _bitmap(_TYPE, _FSID, _LEASE_TIME, _SPACE_AVAIL, _SPACE_TOTAL)
    walk = _walk(path)
    reply = await _compound(client, [*walk, (_ACCESS, uint(wanted)), (_GETFH, b""), (_GETATTR, attributes)], session)
    for _ in walk:
        _next(reply)
    _next(reply)
    reply.uint()
    access = reply.uint()
    _next(reply)
    handle = reply.opaque()
    _next(reply)
    present, values = reply.bitmap(), Reader(reply.opaque())
    fsid, lease, available, total = "", 0, 0, 0
    for attribute in present:  # in ascending order (RFC 7530, 5.8)
        if attribute == _TYPE:
            if values.uint() != _NF4DIR:
                raise NfsError(NFS4ERR_NOTDIR, "GETATTR")
        elif attribute == _FSID:
            fsid = f"{values.uhyper():x}:{values.uhyper():x}"
        elif attribute == _LEASE_TIME:
            lease = values.uint()
        elif attribute == _SPACE_AVAIL:
            available = values.uhyper()
        elif attribute == _SPACE_TOTAL:
            total = values.uhyper()
        else:
            raise XdrError(f"attribute {attribute} was not asked for")
    return Export(
        readable=bool(access & (_ACCESS_READ | _ACCESS_LOOKUP)),
        fsid=fsid,
        handle=handle,
        total=total,
        available=available,
        lease=lease,
    )


async def create_and_remove(client: RpcClient, path: str, name: str, session: Session | None = None) -> None:
    """Make the directory `name` in `path` and take it away again.

    One that is there already, or that somebody else took away meanwhile, is no error; a file of that name is.

    Args:
        client: Connected.
        path: The directory to make it in.
        name: What to call it.
        session: Of NFSv4.1, open; None: with NFSv4.0.

    Raises:
        NfsError: The server says no.
        RpcError, XdrError, OSError: As `RpcClient.call`.
    """
    walk = _walk(path)
    mode = _bitmap(_MODE) + opaque(uint(0o700))
    create = uint(_NF4DIR) + opaque(name.encode()) + mode
    for again in reversed(range(_CREATE_ATTEMPTS)):
        try:
            await _compound(client, [*walk, (_CREATE, create)], session)
            break
        except NfsError as error:
            if error.status == NFS4ERR_EXIST:
                break
            if error.status != NFS4ERR_NOENT or not again:
                raise
    try:
        await look(client, f"{path}/{name}", session)  # says when it is no directory
        await _compound(client, [*walk, (_REMOVE, opaque(name.encode()))], session)
    except NfsError as error:
        if error.status not in (NFS4ERR_NOENT, NFS4ERR_STALE):
            raise


_Operation = tuple[int, bytes]
_OPERATION_NAMES = {
    _ACCESS: "ACCESS", _CREATE: "CREATE", _GETATTR: "GETATTR", _GETFH: "GETFH", _LOOKUP: "LOOKUP",
    _PUTROOTFH: "PUTROOTFH", _REMOVE: "REMOVE", EXCHANGE_ID: "EXCHANGE_ID", CREATE_SESSION: "CREATE_SESSION",
    SEQUENCE: "SEQUENCE",
}  # fmt: skip


def _walk(path: str) -> list[_Operation]:
    parts = [part for part in path.split("/") if part]
    return [(_PUTROOTFH, b""), *((_LOOKUP, opaque(part.encode())) for part in parts)]


def _bitmap(*attributes: int) -> bytes:
    words = [0] * (max(attributes) // 32 + 1)
    for attribute in attributes:
        words[attribute // 32] |= 1 << attribute % 32
    return uint(len(words)) + b"".join(uint(word) for word in words)


async def _compound(
    client: RpcClient, operations: list[_Operation], session: Session | None = None, minor: int = 0
) -> Reader:
    """Run operations in order; the reader stands at the first result."""
    if session is not None:
        minor, operations = 1, [(SEQUENCE, session.sequence()), *operations]
    body = b"".join(uint(number) + arguments for number, arguments in operations)
    reply = await client.call(
        _COMPOUND, opaque(b"gateway") + uint(minor) + uint(len(operations)) + body, identify=True
    )
    status = reply.uint()
    reply.opaque()
    done = reply.uint()
    if status != 0:
        number = operations[min(done, len(operations)) - 1][0] if done else _PUTROOTFH
        raise NfsError(status, _OPERATION_NAMES[number])
    if session is not None:
        _next(reply)
        session.sequenced(reply)
    return reply


def _next(reply: Reader) -> None:
    """Step over the head of one operation's result."""
    operation, status = reply.uint(), reply.uint()
    if status != 0:
        raise NfsError(status, _OPERATION_NAMES.get(operation, str(operation)))
