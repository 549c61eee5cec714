"""Sends and receives the data of the handshake with a proxy, over a connection with or without TLS.

`read_exactly` never reads ahead, because the bytes after the handshake are for the client.
"""

import asyncio
import socket

from gateway.proxy.tls_socket import TlsSocket


class PlainProxyConnection:
    """An unencrypted connection to a proxy.

    Args:
        sock: A connected, non-blocking socket. This object owns it until the handshake with the proxy ends.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def write(self, data: bytes) -> None:
        """Send all of `data`.

        Raises:
            OSError: The connection failed.
        """
        await self._loop.sock_sendall(self.sock, data)

    async def read_exactly(self, count: int) -> bytes:
        """Read exactly `count` bytes.

        Raises:
            OSError: The connection failed, or ended before `count` bytes arrived.
        """
        data = bytearray()
        while len(data) < count:
            piece = await self._receive(count - len(data))
            if not piece:
                raise ConnectionResetError("the proxy closed the connection")
            data += piece
        return bytes(data)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    async def _receive(self, max_bytes: int) -> bytes:
        return await self._loop.sock_recv(self.sock, max_bytes)


class TlsProxyConnection(PlainProxyConnection):
    """A TLS connection to a proxy.

    Args:
        sock: The TCP socket of the TLS connection.
        tls: The TLS connection, after its handshake.
    """

    def __init__(self, sock: socket.socket, tls: TlsSocket) -> None:
        super().__init__(sock)
        self.tls = tls

    async def write(self, data: bytes) -> None:
        """Send all of `data`.

        Raises:
            OSError: The connection failed.
        """
        await self.tls.write(data)

    def close(self) -> None:
        """Reset the TCP connection without sending close_notify."""
        self.tls.abort()

    async def _receive(self, max_bytes: int) -> bytes:
        return await self.tls.read(max_bytes)
