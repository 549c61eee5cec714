"""Implements the protocol between the clients and the backend of the soak test.

The client first sends a head with the kind, the number and the sizes of the stream. All other data is predictable, so
that the receiver can check each byte.
"""

import asyncio
import random
import socket
import struct
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

_LENGTH = 1_048_573
"""Number of bytes after which the data repeats. This number is prime, so that the receiver detects lost packets."""
PIECE = 65536
RECEIPT = 8
"""Number of bytes that the backend sends after it has received a complete upload."""
_HEAD = struct.Struct(">cIII")
FORTH, BACK = 0, 1


class Kind(StrEnum):
    """The order in which the backend receives and sends data. The head contains the sizes `up` and `down`.

    `ASK`: The backend answers each request of `up` bytes with `down` bytes until the client ends the stream.
    `FIRST`: The backend receives `up` bytes and end-of-file, then sends `down` bytes.
    `LAST`: The backend sends `down` bytes and half-closes the stream, then receives `up` bytes.
    `BOTH`: The backend sends `down` bytes and receives `up` bytes at the same time.
    `DRIP`: The backend does the same as for `BOTH`, but sends one byte at a time.
    """

    ASK = "a"
    FIRST = "f"
    LAST = "l"
    BOTH = "b"
    DRIP = "d"


class EarlyEndError(Exception):
    """The stream ended without a reset before all data had arrived."""


class WrongBytesError(Exception):
    """The received data differs from the sent data."""


class Pattern:
    """The data of all streams of a test run.

    Args:
        seed: The random seed of the test run.
    """

    def __init__(self, seed: int) -> None:
        self._twice = memoryview(random.Random(seed).randbytes(_LENGTH) * 2)

    def piece(self, stream: int, direction: int, at: int, size: int) -> memoryview:
        """Return `size` bytes (at most `PIECE`), from the offset `at`, of one direction of a stream."""
        start = (stream * 7919 + direction * 500_009 + at) % _LENGTH
        return self._twice[start : start + size]


def pack_head(kind: Kind, stream: int, up: int, down: int) -> bytes:
    """Return the head of a stream, which the client must send first."""
    return _HEAD.pack(kind.encode(), stream, up, down)


async def both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Run two coroutines concurrently. If one coroutine fails, cancel the other coroutine, and raise the error."""
    tasks = [asyncio.ensure_future(each) for each in (one, other)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class End:
    """The client or the backend of one stream.

    Args:
        sock: A connected, non-blocking socket; the caller closes the socket.
        pattern: The data of all streams.
        sends: `FORTH` for the client, `BACK` for the backend.
        stream: The number of the stream. The backend learns this number from the head.
    """

    def __init__(self, sock: socket.socket, pattern: Pattern, sends: int, stream: int = 0) -> None:
        self.sock, self.stream = sock, stream
        self.sent = self.got = 0
        self._pattern, self._sends = pattern, sends
        self._loop = asyncio.get_running_loop()

    async def take_head(self) -> tuple[Kind, int, int] | None:
        """Receive the head of the stream. Return None if the client ended the stream without sending anything.

        Raises:
            EarlyEndError, OSError: The stream ended within the head, or was reset.
        """
        head = b""
        while len(head) < _HEAD.size:
            data = await self._loop.sock_recv(self.sock, _HEAD.size - len(head))
            if not data and not head:
                return None
            if not data:
                raise EarlyEndError("in the middle of the head")
            head += data
        kind, self.stream, up, down = _HEAD.unpack(head)
        return Kind(kind.decode()), up, down

    async def send(self, count: int, piece: int = PIECE, pause: float = 0.0) -> None:
        """Send the next `count` bytes, in pieces of `piece` bytes, with a pause after each piece. Raises OSError."""
        end = self.sent + count
        while self.sent < end:
            size = min(piece, end - self.sent)
            await self._loop.sock_sendall(self.sock, self._pattern.piece(self.stream, self._sends, self.sent, size))
            self.sent += size
            if pause:
                await asyncio.sleep(pause)

    async def take(self, count: int, piece: int = PIECE, pause: float = 0.0) -> None:
        """Receive the next `count` bytes, and compare them with the expected bytes.

        Raises:
            EarlyEndError, WrongBytesError, OSError: The stream ended early, had wrong bytes, or was reset.
        """
        end = self.got + count
        while self.got < end:
            data = await self._loop.sock_recv(self.sock, min(piece, end - self.got))
            if not data:
                raise EarlyEndError(f"after {self.got:,} of {end:,} bytes")
            if data != self._pattern.piece(self.stream, 1 - self._sends, self.got, len(data)):
                raise WrongBytesError(f"in {len(data):,} bytes at {self.got:,}")
            self.got += len(data)
            if pause:
                await asyncio.sleep(pause)

    async def take_end(self) -> None:
        """Wait for end-of-file.

        Raises:
            WrongBytesError, OSError: More data arrived, or the stream was reset.
        """
        if data := await self._loop.sock_recv(self.sock, PIECE):
            raise WrongBytesError(f"{len(data):,} bytes after the end at {self.got:,}")

    def finish(self) -> None:
        """Half-close the stream. Raises OSError."""
        self.sock.shutdown(socket.SHUT_WR)
