"""A plain socket whose other end speaks TLS: for users that want a socket, where there is none."""

import asyncio
import select
import socket
import time
from dataclasses import dataclass

from gateway.relay.sockets import tune

_CHUNK = 128 * 1024
_LOOK = 0.5
_PATIENCE = 15.0
"""Seconds for which an answer may pause once its client has said all."""
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
    heard = Heard()
    forth = asyncio.create_task(_forth(ours, writer))
    back = asyncio.create_task(_back(reader, ours, heard))
    gone = asyncio.create_task(_gone(ours, forth, heard))
    jobs = (forth, back, gone)
    try:
        # What the far side says is wanted until it has said all, or nobody is there to hear it.
        await asyncio.wait({back, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for job in jobs:
            job.cancel()
        ended = await asyncio.gather(*jobs, return_exceptions=True)
        ours.close()
        writer.close()
    failed = [each for each in ended if isinstance(each, Exception)]
    for error in failed:
        if not isinstance(error, OSError):
            raise error
    return not failed


@dataclass
class Heard:
    """When the far side was heard last, in monotonic seconds."""

    at: float = 0.0


async def _gone(ours: socket.socket, forth: "asyncio.Task[None]", heard: Heard) -> None:
    """Wait until the other end of the pair is closed, or has said all and hears nothing any more.

    It cannot be told to the far side that a client has said all, so one that waits for that end would wait for ever.
    """
    poller = select.poll()
    poller.register(ours, 0)  # asks for nothing, and is told of a hangup (poll(2))
    done = 0.0
    while not poller.poll(0):
        await asyncio.sleep(_LOOK)
        if forth.done():
            done = done or time.monotonic()
            if time.monotonic() - max(done, heard.at) > _PATIENCE:
                return


async def _forth(ours: socket.socket, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(ours, _CHUNK):
        writer.write(data)
        await writer.drain()


async def _back(reader: asyncio.StreamReader, ours: socket.socket, heard: Heard) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(_CHUNK):
        heard.at = time.monotonic()
        await loop.sock_sendall(ours, data)
    ours.shutdown(socket.SHUT_WR)
