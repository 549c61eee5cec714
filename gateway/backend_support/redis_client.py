"""Sends Redis commands, and reads the replies (RESP2; Redis documentation, "Redis serialization protocol").

A check reads only small replies. This module limits the depth of each reply, and the number of items in all replies
of one check. `ProbeConnection` limits the number of bytes.
"""

from gateway.backend_support.probe_connection import ProbeConnection
from gateway.errors import FailureReason, UnusableTargetError

_MAX_DEPTH = 4
_MAX_ITEMS = 1024
"""Maximum number of items in all replies of one check. A primary's reply to ROLE has four items for each replica."""


class RedisErrorReply(str):
    """The text of an error reply. The text usually begins with an upper-case code, such as NOAUTH."""

    __slots__ = ()


Reply = bytes | int | None | RedisErrorReply | list["Reply"]


class RedisClient:
    """Sends the Redis commands of one check, and reads the replies.

    Args:
        stream: A new connection, on which no data has been sent yet.
    """

    def __init__(self, stream: ProbeConnection) -> None:
        self._stream = stream
        self._items = 0

    async def run(self, *commands: tuple[str, ...]) -> list[Reply]:
        """Send all commands at once, and return one reply for each. A reply can be an error reply.

        Args:
            commands: The commands, each with its arguments.

        Raises:
            UnusableTargetError: A reply is not valid RESP2, or is too long.
            OSError: The connection failed.
        """
        await self._stream.send(b"".join(map(_encode, commands)))
        return [await self._read(0) for _ in commands]

    async def _read(self, depth: int) -> Reply:
        self._items += 1
        if depth > _MAX_DEPTH or self._items > _MAX_ITEMS:
            raise _invalid("a reply has too many items or too many levels of arrays")
        line = await self._stream.read_line()
        mark, rest = line[:1], line[1:]
        if mark == b"+":
            return rest
        if mark == b"-":
            return RedisErrorReply(rest.decode(errors="replace"))
        if mark == b":":
            return _integer(rest)
        if mark == b"$":
            return await self._read_bulk(_integer(rest))
        if mark == b"*":
            count = _integer(rest)
            return None if count == -1 else [await self._read(depth + 1) for _ in range(count)]
        raise _invalid(f"a reply begins with {line[:20]!r}, which is not a RESP type")

    async def _read_bulk(self, size: int) -> bytes | None:
        if size == -1:
            return None
        if size < 0:
            raise _invalid("a length is negative")
        data = await self._stream.read_exactly(size + 2)
        if data[-2:] != b"\r\n":
            raise _invalid("a string is longer than its declared length")
        return data[:-2]


def _encode(command: tuple[str, ...]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _integer(text: bytes) -> int:
    if not text.removeprefix(b"-").isdigit() or len(text) > 20:
        raise _invalid(f"{text[:20]!r} is not a number")
    return int(text)


def _invalid(why: str) -> UnusableTargetError:
    return UnusableTargetError(FailureReason.PROTOCOL, f"not a Redis server: {why}")
