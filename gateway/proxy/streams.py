"""Streams for python-socks that read exactly the proxy's response, and no byte after it.

python-socks reads whatever is available for an HTTP response. The first bytes of a server that speaks first (MySQL,
SSH) may be in the same segment, and they belong to the client.
"""

import asyncio
import socket

from python_socks._abc import AsyncSocketStream
from python_socks._errors import IncompleteReadError

from gateway.proxy.tls import TlsSocket

_END_OF_HEADERS = b"\r\n\r\n"
_MAX_HEADERS = 16 * 1024


class PlainStream(AsyncSocketStream):
    """A stream over a plain socket.

    Args:
        sock: Connected and non-blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""
        await self._loop.sock_sendall(self._sock, data)

    async def read(self, max_bytes: int = _MAX_HEADERS) -> bytes:
        """Read the status line and the headers of an HTTP response, up to the empty line.

        Args:
            max_bytes: Largest size of the response.

        Raises:
            IncompleteReadError: The response is larger, or the connection ends first.
        """
        headers = bytearray()
        while len(headers) < max_bytes:
            headers += await self.read_exactly(1)  # a response has about 50 bytes, once for each connection
            if headers.endswith(_END_OF_HEADERS):
                return bytes(headers)
        raise IncompleteReadError("the headers of the proxy's response are too long")

    async def read_exactly(self, n: int) -> bytes:
        """Read `n` bytes.

        Raises:
            IncompleteReadError: The connection ends first.
        """
        data = bytearray()
        while len(data) < n:
            piece = await self._receive(n - len(data))
            if not piece:
                raise IncompleteReadError("the proxy closed the connection")
            data += piece
        return bytes(data)

    async def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    async def _receive(self, max_bytes: int) -> bytes:
        return await self._loop.sock_recv(self._sock, max_bytes)


class TlsStream(PlainStream):
    """A stream over a TLS connection.

    Args:
        sock: The socket below TLS.
        tls: The connection, after its handshake.
    """

    def __init__(self, sock: socket.socket, tls: TlsSocket) -> None:
        super().__init__(sock)
        self.tls = tls

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""
        await self.tls.write(data)

    async def close(self) -> None:
        """Reset the connection."""
        self.tls.abort()

    async def _receive(self, max_bytes: int) -> bytes:
        return await self.tls.read(max_bytes)
