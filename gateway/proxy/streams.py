"""What python-socks reads and writes through: never a byte more than its protocol's own.

Its HTTP side asks for "what there is". A server that speaks first (MySQL, SSH) may have its greeting in the same
segment as the proxy's answer, and that belongs to the client.
"""

import asyncio
import socket

from python_socks._abc import AsyncSocketStream
from python_socks._errors import IncompleteReadError

_END = b"\r\n\r\n"
_LONGEST_HEAD = 16 * 1024


class PlainStream(AsyncSocketStream):
    """A socket without TLS.

    Args:
        sock: Connected and non-blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def write(self, data: bytes) -> None:
        """Send all of it."""
        await self._loop.sock_sendall(self._sock, data)

    async def read(self, max_bytes: int = _LONGEST_HEAD) -> bytes:
        """The head of an HTTP answer, up to and with its empty line."""
        head = bytearray()
        while len(head) < max_bytes:
            head += await self.read_exactly(1)  # a head is some fifty bytes, once for each connection
            if head.endswith(_END):
                return bytes(head)
        raise IncompleteReadError("the proxy's answer does not end")

    async def read_exactly(self, n: int) -> bytes:
        """So many bytes."""
        data = bytearray()
        while len(data) < n:
            got = await self._loop.sock_recv(self._sock, n - len(data))
            if not got:
                raise IncompleteReadError("the proxy closed the connection")
            data += got
        return bytes(data)

    async def close(self) -> None:
        """Close the socket."""
        self._sock.close()


class TlsStream(AsyncSocketStream):
    """A connection with TLS.

    Args:
        reader: Of asyncio.
        writer: Of asyncio.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def parts(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """What it is made of, to go on without the proxy's protocol."""
        return self._reader, self._writer

    async def write(self, data: bytes) -> None:
        """Send all of it."""
        self._writer.write(data)
        await self._writer.drain()

    async def read(self, max_bytes: int = _LONGEST_HEAD) -> bytes:
        """The head of an HTTP answer, up to and with its empty line."""
        del max_bytes
        try:
            return await self._reader.readuntil(_END)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise IncompleteReadError("the proxy's answer does not end") from error

    async def read_exactly(self, n: int) -> bytes:
        """So many bytes."""
        try:
            return await self._reader.readexactly(n)
        except asyncio.IncompleteReadError as error:
            raise IncompleteReadError("the proxy closed the connection") from error

    async def close(self) -> None:
        """Close it without waiting."""
        self._writer.transport.abort()
