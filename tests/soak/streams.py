"""Implements the protocol of the soak's clients and backend: a head, then bytes in a pattern unique to the stream."""

import asyncio
import random
import socket
import struct
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

_LENGTH = 1_048_573
"""Period of the pattern in bytes. The period is a prime number, so it is not a multiple of a packet size."""
PIECE = 65536
RECEIPT = 8
"""Number of bytes with which the backend confirms that a complete upload arrived."""
_HEAD = struct.Struct(">cIII")
FORTH, BACK = 0, 1


class Kind(StrEnum):
    """How the backend serves a stream that has `up` bytes to the backend and `down` bytes from the backend.

    `ASK`: The backend answers each request of `up` bytes with `down` bytes until the client ends the stream.
    `FIRST`: The backend reads `up` bytes and end-of-file, then sends `down` bytes and half-closes.
    `LAST`: The backend sends `down` bytes and half-closes, then reads `up` bytes.
    `BOTH`: The backend sends and reads at the same time.
    `DRIP`: The backend sends and reads at the same time, and sends one byte at a time.
    """

    ASK = "a"
    FIRST = "f"
    LAST = "l"
    BOTH = "b"
    DRIP = "d"


class EarlyEndError(Exception):
    """The other side ended the stream without a reset before all data had arrived."""


class WrongBytesError(Exception):
    """The received data differs from the sent data."""


class Pattern:
    """The data of all streams of a run.

    Args:
        seed: The seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self._twice = memoryview(random.Random(seed).randbytes(_LENGTH) * 2)

    def piece(self, stream: int, direction: int, at: int, size: int) -> memoryview:
        """Return the bytes from `at` to `at + size` of one direction of a stream; `size` is at most PIECE."""
        start = (stream * 7919 + direction * 500_009 + at) % _LENGTH
        return self._twice[start : start + size]


def put_head(kind: Kind, stream: int, up: int, down: int) -> bytes:
    """Return the first bytes that a client sends."""
    return _HEAD.pack(kind.encode(), stream, up, down)


async def both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Run two coroutines concurrently. If one raises an error, cancel and await the other, then raise the error."""
    tasks = [asyncio.ensure_future(each) for each in (one, other)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class End:
    """One end of a stream.

    Args:
        sock: A connected, non-blocking socket; the caller closes it.
        pattern: The byte pattern of the run.
        sends: The direction in which this end sends: FORTH or BACK.
        stream: Number of the stream; the backend reads the number from the head.
    """

    def __init__(self, sock: socket.socket, pattern: Pattern, sends: int, stream: int = 0) -> None:
        self.sock, self.stream = sock, stream
        self.sent = self.got = 0
        self._pattern, self._sends = pattern, sends
        self._loop = asyncio.get_running_loop()

    async def take_head(self) -> tuple[Kind, int, int] | None:
        """Read and return the client's head; None if the client closed without sending anything.

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
        """Send the next `count` bytes, `piece` at a time and `pause` seconds apart. Raises OSError."""
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
        """Wait for the end-of-file from the other side.

        Raises:
            WrongBytesError, OSError: The other side sent more data, or reset the stream.
        """
        if data := await self._loop.sock_recv(self.sock, PIECE):
            raise WrongBytesError(f"{len(data):,} bytes after the end at {self.got:,}")

    def finish(self) -> None:
        """Half-close the stream. Raises OSError."""
        self.sock.shutdown(socket.SHUT_WR)
