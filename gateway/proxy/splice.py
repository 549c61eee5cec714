"""A plain socket whose other end speaks TLS: for users that want a socket, where there is none."""

import asyncio
import select
import socket

from gateway.relay.sockets import tune

_CHUNK = 128 * 1024
_LOOK = 0.2
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
    forth = asyncio.create_task(_forth(ours, writer))
    back = asyncio.create_task(_back(reader, ours))
    gone = asyncio.create_task(_closed(ours, forth))
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


async def _closed(ours: socket.socket, forth: "asyncio.Task[None]") -> None:
    """Wait until the other end of the pair is closed, rather than only done with sending."""
    await asyncio.wait({forth})
    poller = select.poll()
    poller.register(ours, 0)  # asks for nothing, and is told of a hangup (poll(2))
    while not poller.poll(0):  # noqa: ASYNC110 - the loop watches no hangup by itself
        await asyncio.sleep(_LOOK)


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
