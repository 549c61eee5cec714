"""What python-socks reads and writes through: never a byte more than its protocol's own.

Its HTTP side asks for "what there is". A server that speaks first (MySQL, SSH) may have its greeting in the same
segment as the proxy's answer, and that belongs to the client.
"""

import asyncio
import socket

from python_socks._abc import AsyncSocketStream
from python_socks._errors import IncompleteReadError

from gateway.proxy.tls import TlsSocket

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
            got = await self._receive(n - len(data))
            if not got:
                raise IncompleteReadError("the proxy closed the connection")
            data += got
        return bytes(data)

    async def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    async def _receive(self, most: int) -> bytes:
        return await self._loop.sock_recv(self._sock, most)


class TlsStream(PlainStream):
    """A connection with TLS.

    Args:
        sock: Below TLS.
        tls: The handshake is done.
    """

    def __init__(self, sock: socket.socket, tls: TlsSocket) -> None:
        super().__init__(sock)
        self.tls = tls

    async def write(self, data: bytes) -> None:
        """Send all of it."""
        await self.tls.write(data)

    async def close(self) -> None:
        """Close it without waiting."""
        self.tls.abort()

    async def _receive(self, most: int) -> bytes:
        return await self.tls.read(most)
