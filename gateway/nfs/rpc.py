"""ONC RPC version 2 over TCP (RFC 5531): one call at a time on one socket."""

import asyncio
import secrets
import socket
import struct

from gateway.nfs.xdr import Reader, XdrError, opaque, uint

_CALL, _REPLY = 0, 1
_AUTH_NONE, _AUTH_SYS = 0, 1
_LAST_FRAGMENT = 0x80000000
_MAX_REPLY = 1 << 20
_MAX_FRAGMENTS = 1024
"""Of one reply: without a bound, empty fragments would keep the event loop from everything else."""
_ACCEPT_ERRORS = {
    1: "the server has no such RPC program",
    2: "the server speaks other versions",
    3: "the server has no such procedure",
    4: "the server cannot decode the call",
    5: "the server reports a system error",
}


class RpcError(Exception):
    """The server answered the call with an RPC error.

    Args:
        message: One line for a person.
        versions: The lowest and highest version that the server speaks, where it told.
        denied: Whether the server refused our credentials.
    """

    def __init__(self, message: str, *, versions: tuple[int, int] | None = None, denied: bool = False) -> None:
        super().__init__(message)
        self.versions = versions
        self.denied = denied


class RpcClient:
    """Calls one program on a connected socket, which the caller closes.

    Args:
        sock: A non-blocking stream socket.
        program: The RPC program's number.
        version: Its version.
        machine: The name to give with AUTH_SYS (RFC 5531, appendix A).
    """

    def __init__(self, sock: socket.socket, program: int, version: int, machine: str = "gateway") -> None:
        self._sock = sock
        self._program = program
        self._version = version
        self._sys = opaque(uint(0) + opaque(machine.encode()) + uint(0) + uint(0) + uint(0))
        self._xid = secrets.randbits(32)

    async def call(self, procedure: int, arguments: bytes = b"", *, identify: bool = False) -> Reader:
        """Call a procedure; the reader stands at its results.

        Args:
            procedure: Its number.
            arguments: Already encoded.
            identify: Send AUTH_SYS as root, rather than AUTH_NONE.

        Raises:
            RpcError: The server refused or cannot do it.
            XdrError: The answer is no RPC.
            OSError: The connection broke.
        """
        self._xid = (self._xid + 1) & 0xFFFFFFFF
        credentials = uint(_AUTH_SYS) + self._sys if identify else uint(_AUTH_NONE) + uint(0)
        header = struct.pack(">6I", self._xid, _CALL, 2, self._program, self._version, procedure)
        record = header + credentials + uint(_AUTH_NONE) + uint(0) + arguments
        await asyncio.get_running_loop().sock_sendall(self._sock, uint(_LAST_FRAGMENT | len(record)) + record)
        return self._accepted(Reader(await self._record()))

    async def _record(self) -> bytes:
        record = bytearray()
        for _ in range(_MAX_FRAGMENTS):
            mark = struct.unpack(">I", await self._exactly(4))[0]
            length = mark & ~_LAST_FRAGMENT
            if len(record) + length > _MAX_REPLY:
                raise XdrError(f"a reply of {length} bytes: this is not RPC")
            record += await self._exactly(length)
            if mark & _LAST_FRAGMENT:
                return bytes(record)
        raise XdrError(f"a reply of more than {_MAX_FRAGMENTS} fragments: this is not RPC")

    async def _exactly(self, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        data = bytearray()
        while len(data) < count:
            piece = await loop.sock_recv(self._sock, count - len(data))
            if not piece:
                raise ConnectionResetError("the server closed the connection")
            data += piece
        return bytes(data)

    def _accepted(self, reply: Reader) -> Reader:
        xid, kind = reply.uint(), reply.uint()
        if xid != self._xid or kind != _REPLY:
            raise XdrError("the answer does not belong to the call")
        if reply.uint() != 0:
            raise RpcError("the server refuses our credentials (RPC MSG_DENIED)", denied=True)
        reply.uint()
        reply.opaque()
        status = reply.uint()
        if status == 0:
            return reply
        versions = (reply.uint(), reply.uint()) if status == 2 else None
        raise RpcError(_ACCEPT_ERRORS.get(status, f"RPC accept status {status}"), versions=versions)
