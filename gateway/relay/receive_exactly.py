"""Reads an exact number of bytes from a socket."""

import asyncio
import socket


async def receive_exactly(sock: socket.socket, count: int) -> bytes:
    """Receive exactly `count` bytes.

    Args:
        sock: A non-blocking stream socket.
        count: The number of bytes.

    Raises:
        ConnectionResetError: The peer closed the connection before all bytes arrived.
        OSError: The connection failed.
    """
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        piece = await loop.sock_recv(sock, count - len(data))
        if not piece:
            raise ConnectionResetError("the server closed the connection")
        data += piece
    return bytes(data)
