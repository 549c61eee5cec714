"""XDR (RFC 4506): the types that RPC and NFSv4 use."""

import struct

_MOST_WORDS = 8
"""Of a bitmap: NFSv4.2 needs three (RFC 7862), and each costs the memory of 32 numbers."""


class XdrError(ValueError):
    """The bytes are not what the protocol says."""


def uint(value: int) -> bytes:
    """An unsigned 32-bit integer."""
    return struct.pack(">I", value)


def uhyper(value: int) -> bytes:
    """An unsigned 64-bit integer."""
    return struct.pack(">Q", value)


def opaque(value: bytes) -> bytes:
    """Variable-length bytes, padded to four."""
    return struct.pack(">I", len(value)) + value + bytes(-len(value) % 4)


class Reader:
    """Takes values off the front of a reply.

    Args:
        data: The reply.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def fixed(self, count: int) -> bytes:
        """`count` bytes, with their padding skipped."""
        end = self._at + count
        if end > len(self._data):
            raise XdrError(f"the reply ends {end - len(self._data)} bytes early")
        value = self._data[self._at : end]
        self._at = end + (-count % 4)
        return value

    def uint(self) -> int:
        """An unsigned 32-bit integer."""
        return int(struct.unpack(">I", self.fixed(4))[0])

    def uhyper(self) -> int:
        """An unsigned 64-bit integer."""
        return int(struct.unpack(">Q", self.fixed(8))[0])

    def opaque(self) -> bytes:
        """Variable-length bytes."""
        return self.fixed(self.uint())

    def bitmap(self) -> list[int]:
        """An NFSv4 attribute bitmap, as attribute numbers."""
        count = self.uint()
        if count > _MOST_WORDS:
            raise XdrError(f"a bitmap of {count} words")
        words = [self.uint() for _ in range(count)]
        return [32 * index + bit for index, word in enumerate(words) for bit in range(32) if word >> bit & 1]
