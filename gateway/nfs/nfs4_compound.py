"""Sends COMPOUND requests of NFSv4, and reads the headers of the results (RFC 7530, section 15.2)."""

from gateway.nfs.nfs41_session import CREATE_SESSION, EXCHANGE_ID, SEQUENCE, Nfs41Session
from gateway.nfs.rpc import RpcClient
from gateway.nfs.xdr import XdrReader, opaque, uint

_COMPOUND = 1

ACCESS, CREATE, GETATTR, GETFH, LOOKUP, PUTROOTFH, REMOVE = 3, 6, 9, 10, 15, 24, 28


class Nfs4StatusError(Exception):
    """The server refused an operation of an NFSv4 COMPOUND request.

    Args:
        status: The `nfsstat4` value (RFC 7530, section 13).
        operation: Name of the operation, such as `LOOKUP`.
    """

    def __init__(self, status: int, operation: str) -> None:
        super().__init__(f"{operation}: {_STATUS_TEXTS.get(status, f'nfsstat4 {status}')}")
        self.status = status


_STATUS_TEXTS = {
    1: "operation not permitted", 2: "no such directory", 5: "input/output error", 13: "permission denied",
    17: "exists", 20: "not a directory", 28: "no space left", 30: "read-only file system",
    69: "quota exceeded", 70: "the directory was replaced",
    10013: "the server is in its grace period after a restart", 10014: "the directory was replaced",
    10008: "the server is temporarily busy", 10016: "the export requires another security flavor",
    10021: "the server does not support NFSv4.0",
}  # fmt: skip

Operation = tuple[int, bytes]

_OPERATION_NAMES = {
    ACCESS: "ACCESS", CREATE: "CREATE", GETATTR: "GETATTR", GETFH: "GETFH", LOOKUP: "LOOKUP",
    PUTROOTFH: "PUTROOTFH", REMOVE: "REMOVE", EXCHANGE_ID: "EXCHANGE_ID", CREATE_SESSION: "CREATE_SESSION",
    SEQUENCE: "SEQUENCE",
}  # fmt: skip


async def send_compound(
    client: RpcClient, operations: list[Operation], session: Nfs41Session | None = None, minor: int = 0
) -> XdrReader:
    """Send a COMPOUND request, and return a reader positioned at the result of the first of `operations`.

    Args:
        client: The RPC client.
        operations: The number and the encoded arguments of each operation.
        session: An open NFSv4.1 session; None for no session. In a session, the request starts with SEQUENCE.
        minor: The minor version of NFSv4. In a session, it is always 1.

    Raises:
        Nfs4StatusError: An operation failed.
        RpcError: See `RpcClient.call`.
        XdrError: See `RpcClient.call`; or the reply belongs to another session.
        OSError: See `RpcClient.call`.
    """
    if session is not None:
        minor, operations = 1, [(SEQUENCE, session.sequence_arguments()), *operations]
    body = b"".join(uint(number) + arguments for number, arguments in operations)
    reply = await client.call(
        _COMPOUND, opaque(b"gateway") + uint(minor) + uint(len(operations)) + body, auth_sys=True
    )
    status = reply.uint()
    reply.opaque()
    result_count = reply.uint()
    if status != 0:
        number = operations[min(result_count, len(operations)) - 1][0] if result_count else PUTROOTFH
        raise Nfs4StatusError(status, _OPERATION_NAMES[number])
    if session is not None:
        read_result_header(reply)
        session.read_sequence(reply)
    return reply


def read_result_header(reply: XdrReader) -> None:
    """Read the operation and the status at the start of a result.

    Raises:
        Nfs4StatusError: The operation failed.
    """
    operation, status = reply.uint(), reply.uint()
    if status != 0:
        raise Nfs4StatusError(status, _OPERATION_NAMES.get(operation, str(operation)))
