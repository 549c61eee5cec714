"""Implements an ONC RPC version 2 client over TCP (RFC 5531), with one call at a time on a socket."""

import asyncio
import secrets
import socket
import struct

from gateway.nfs.xdr import XdrError, XdrReader, opaque, uint
from gateway.relay.receive_exactly import receive_exactly

_CALL, _REPLY = 0, 1
_AUTH_NONE, _AUTH_SYS = 0, 1
_LAST_FRAGMENT = 0x80000000
_MAX_REPLY = 1 << 20
_MAX_FRAGMENTS = 1024
"""Maximum number of fragments in one reply. Without this limit, a server could send empty fragments without end."""
_ACCEPT_ERRORS = {
    1: "the server does not support this RPC program",
    2: "the server does not support this version of the RPC program",
    3: "the server does not support this RPC procedure",
    4: "the server cannot decode the call",
    5: "the server reports a system error",
}


class RpcError(Exception):
    """The server refused an RPC call, or could not execute it.

    Args:
        message: One line for the operator.
        versions: The lowest and the highest version that the server supports, if the reply contains them.
        denied: Whether the server rejected the credentials of the call.
    """

    def __init__(self, message: str, *, versions: tuple[int, int] | None = None, denied: bool = False) -> None:
        super().__init__(message)
        self.versions = versions
        self.denied = denied


class RpcClient:
    """An ONC RPC client for one program, such as NFS.

    Args:
        sock: A connected, non-blocking stream socket. The caller must close it.
        program: Number of the RPC program.
        version: Version of the RPC program.
        machine: The machine name to send in AUTH_SYS credentials (RFC 5531, appendix A).
    """

    def __init__(self, sock: socket.socket, program: int, version: int, machine: str = "gateway") -> None:
        self._sock = sock
        self._program = program
        self._version = version
        self._auth_sys = opaque(uint(0) + opaque(machine.encode()) + uint(0) + uint(0) + uint(0))
        self._xid = secrets.randbits(32)

    async def call(self, procedure: int, arguments: bytes = b"", *, auth_sys: bool = False) -> XdrReader:
        """Call a procedure.

        Args:
            procedure: Number of the procedure.
            arguments: The encoded arguments.
            auth_sys: Whether to send AUTH_SYS credentials of root instead of AUTH_NONE.

        Returns:
            A reader positioned at the results of the procedure.

        Raises:
            RpcError: The server refuses the call or cannot execute it.
            XdrError: The reply is not a valid RPC reply.
            OSError: The connection has failed.
        """
        self._xid = (self._xid + 1) & 0xFFFFFFFF
        credentials = uint(_AUTH_SYS) + self._auth_sys if auth_sys else uint(_AUTH_NONE) + uint(0)
        header = struct.pack(">6I", self._xid, _CALL, 2, self._program, self._version, procedure)
        record = header + credentials + uint(_AUTH_NONE) + uint(0) + arguments
        await asyncio.get_running_loop().sock_sendall(self._sock, uint(_LAST_FRAGMENT | len(record)) + record)
        return self._read_header(XdrReader(await self._receive_record()))

    async def _receive_record(self) -> bytes:
        """Receive all fragments of one record (RFC 5531, section 11), and return their concatenated content.

        Raises:
            XdrError: The record is too large, or has too many fragments.
            OSError: The connection has failed.
        """
        record = bytearray()
        for _ in range(_MAX_FRAGMENTS):
            mark = struct.unpack(">I", await receive_exactly(self._sock, 4))[0]
            length = mark & ~_LAST_FRAGMENT
            if len(record) + length > _MAX_REPLY:
                raise XdrError(f"a reply is larger than {_MAX_REPLY} bytes: the server does not speak RPC")
            record += await receive_exactly(self._sock, length)
            if mark & _LAST_FRAGMENT:
                return bytes(record)
        raise XdrError(f"a reply has more than {_MAX_FRAGMENTS} fragments: the server does not speak RPC")

    def _read_header(self, reply: XdrReader) -> XdrReader:
        """Read the header of `reply`. Return `reply`, positioned at the results of the procedure.

        Raises:
            RpcError: The server refuses the call or cannot execute it.
            XdrError: The header is not valid, or belongs to another call.
        """
        xid, kind = reply.uint(), reply.uint()
        if xid != self._xid or kind != _REPLY:
            raise XdrError("the reply does not match the call")
        if reply.uint() != 0:
            raise RpcError("the server rejected the credentials of the gateway's call (RPC MSG_DENIED)", denied=True)
        reply.uint()
        reply.opaque()
        status = reply.uint()
        if status == 0:
            return reply
        versions = (reply.uint(), reply.uint()) if status == 2 else None
        raise RpcError(_ACCEPT_ERRORS.get(status, f"the call failed: RPC accept_stat {status}"), versions=versions)
