"""Implements the types of clients of the soak test.

Each function opens one stream (one TCP connection) through the gateway, and returns when the stream has ended.
"""

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable

from tests.soak.streams import PIECE, RECEIPT, End, Kind, both, pack_head

_SMALL_BUFFER = 8192
_ENDLESS = 1 << 30
_RESET = b"\1\0\0\0\0\0\0\0"


class Play:
    """State that the clients of one round share. The soak test consists of rounds with different network faults.

    Args:
        chance: Random generator for sizes and pauses.
        port: The port to which the clients connect.
        most: Maximum return value of `size`.
    """

    def __init__(self, chance: random.Random, port: int, most: int) -> None:
        self.chance, self.most = chance, most
        self.winding = asyncio.Event()
        """Event that is set when the round is to end. Some clients keep their stream open until then."""
        self.waits: list[float] = []
        """The response times of all queries, in seconds."""
        self._port = port

    async def pause(self, most: float) -> None:
        """Wait for a random time of up to `most` seconds, but not longer than the round lasts."""
        try:
            async with asyncio.timeout(self.chance.uniform(0, most)):
                await self.winding.wait()
        except TimeoutError:
            return

    def size(self) -> int:
        """Return a random number of bytes up to `most`. Small numbers are more likely than large numbers."""
        return int(self.most ** self.chance.uniform(0.3, 1.0))

    async def connect(self, end: End, buffer: int = 0) -> None:
        """Connect. If `buffer` is not 0, it is the size of the receive buffer in bytes. Raises OSError."""
        if buffer:
            end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await asyncio.get_running_loop().sock_connect(end.sock, ("127.0.0.1", self._port))
        end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def begin(self, end: End, kind: Kind, up: int, down: int, buffer: int = 0) -> None:
        """Connect, and send the head of the stream: its kind, its number and its byte counts. Raises OSError."""
        await self.connect(end, buffer)
        await asyncio.get_running_loop().sock_sendall(end.sock, pack_head(kind, end.stream, up, down))

    async def ask(self, end: End, up: int, down: int) -> None:
        """Send one query, and record the time until the response. Raises the errors of `End.take`."""
        began = time.monotonic()
        await end.send(up)
        await end.take(down)
        self.waits.append(time.monotonic() - began)

    async def end_first(
        self, end: End, up: int, down: int, buffer: int = 0, piece: int = PIECE, pause: float = 0.0
    ) -> None:
        """Send all data and half-close, then receive the response. Raises the errors of `End.take`."""
        await self.begin(end, Kind.FIRST, up, down, buffer)
        await end.send(up)
        end.finish()
        await end.take(down, piece, pause)
        await end.take_end()


async def query(play: Play, end: End) -> None:
    """Send a few queries."""
    up, down = play.chance.randint(1, 2000), play.chance.randint(1, 20_000)
    await play.begin(end, Kind.ASK, up, down)
    for _ in range(play.chance.randint(1, 20)):
        await play.ask(end, up, down)
        await play.pause(1.0)
    end.finish()
    await end.take_end()


async def idle(play: Play, end: End) -> None:
    """Send one query, send nothing until the round is to end, and then send another query."""
    await play.begin(end, Kind.ASK, 100, 100)
    await play.ask(end, 100, 100)
    await play.winding.wait()
    await play.ask(end, 100, 100)
    end.finish()
    await end.take_end()


async def upload(play: Play, end: End) -> None:
    """Send data, half-close, and receive a short confirmation."""
    await play.end_first(end, play.size(), RECEIPT)


async def download(play: Play, end: End) -> None:
    """Send one byte, half-close, and receive data."""
    await play.end_first(end, 1, play.size())


async def half(play: Play, end: End) -> None:
    """Send data, half-close, and then receive data."""
    await play.end_first(end, play.size(), play.size())


async def slow(play: Play, end: End) -> None:
    """Send one byte, half-close, and receive data slowly."""
    await play.end_first(end, 1, min(play.size(), 400_000), _SMALL_BUFFER, 4096, 0.03)


async def late(play: Play, end: End) -> None:
    """Continue to send after the backend has half-closed the stream."""
    up, down = play.size(), play.chance.randint(0, 5000)
    await play.begin(end, Kind.LAST, up, down)

    async def receive() -> None:
        await end.take(down)
        await end.take_end()

    await both(end.send(up), receive())
    end.finish()


async def duplex(play: Play, end: End) -> None:
    """Send and receive at the same time."""
    up, down = play.size(), play.size()
    await play.begin(end, Kind.BOTH, up, down)
    await both(end.send(up), end.take(down))
    end.finish()
    await end.take_end()


async def tiny(play: Play, end: End) -> None:
    """Send and receive one byte at a time."""
    count = play.chance.randint(10, 500)
    await play.begin(end, Kind.DRIP, count, count)
    await both(end.send(count, 1, 0.003), end.take(count))
    end.finish()
    await end.take_end()


async def deaf(play: Play, end: End) -> None:
    """Request much data and read nothing."""
    await play.begin(end, Kind.FIRST, 0, _ENDLESS, _SMALL_BUFFER)
    end.finish()
    await play.winding.wait()


async def sip(play: Play, end: End) -> None:
    """Request much data and read slowly."""
    await play.begin(end, Kind.FIRST, 0, _ENDLESS, _SMALL_BUFFER)
    end.finish()
    while not play.winding.is_set():
        await end.take(4096)
        await play.pause(0.1)


async def drip(play: Play, end: End) -> None:
    """Make the backend send one byte at a time, and read nothing."""
    await play.begin(end, Kind.DRIP, 1, _ENDLESS, _SMALL_BUFFER)
    await play.winding.wait()


async def reset(play: Play, end: End) -> None:
    """Reset the connection while both directions carry data."""
    await play.begin(end, Kind.BOTH, _ENDLESS, _ENDLESS)
    end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    await both(end.send(play.size()), end.take(play.size()))


async def touch(play: Play, end: End) -> None:
    """Connect and close without sending anything."""
    await play.connect(end)
    await play.pause(0.05)


ClientType = Callable[[Play, End], Awaitable[None]]
ALL: tuple[ClientType, ...] = (
    query, idle, upload, download, half, slow, late, duplex, tiny, deaf, sip, drip, reset, touch
)  # fmt: skip
CLIENT_TYPES: dict[str, ClientType] = {each.__name__: each for each in ALL}
GIVE_UP = {"deaf", "sip", "drip", "reset", "touch"}
"""Client types that close their socket before the stream is complete."""
UNSURE = {"late"}
"""Client types that cannot determine whether the backend received all data."""
MIX = {
    "idle": 240, "query": 200, "upload": 100, "download": 80, "half": 60, "late": 60, "duplex": 40, "slow": 40,
    "tiny": 30, "deaf": 60, "sip": 40, "drip": 30, "reset": 10, "touch": 10,
}  # fmt: skip
"""Number of clients of each type, per 1,000 clients."""
