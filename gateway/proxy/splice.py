"""A plain socket whose other end speaks TLS: for users that want a socket, where there is none."""

import asyncio
import socket

from gateway.relay.sockets import tune

_CHUNK = 128 * 1024
_pumps: set[asyncio.Task[bool]] = set()


def plain_end(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[socket.socket, "asyncio.Task[bool]"]:
    """A socket from which all that `reader` gives can be read, and to which may be written what `writer` is to send.

    The end of what the client sends cannot be told: asyncio's TLS has no half-close.

    Returns:
        The socket, and a task that says at the end whether the connection ended cleanly.
    """
    ours, theirs = socket.socketpair()
    tune(ours)
    tune(theirs)
    pump = asyncio.get_running_loop().create_task(_pump(reader, writer, ours))
    _pumps.add(pump)
    pump.add_done_callback(_pumps.discard)
    return theirs, pump


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ours: socket.socket) -> bool:
    clean = True
    with ours:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_forth(ours, writer))
                group.create_task(_back(reader, ours))
        except* OSError:
            clean = False
        finally:
            writer.close()
    return clean


async def _forth(ours: socket.socket, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(ours, _CHUNK):
        writer.write(data)
        await writer.drain()


async def _back(reader: asyncio.StreamReader, ours: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(_CHUNK):
        await loop.sock_sendall(ours, data)
    ours.shutdown(socket.SHUT_WR)
