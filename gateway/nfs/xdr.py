"""Encodes and decodes the XDR types (RFC 4506) of ONC RPC and NFSv4."""

import struct

_MAX_BITMAP_WORDS = 8
"""Maximum number of 32-bit words in a bitmap. The attributes of NFSv4.2 need three words (RFC 7862)."""


class XdrError(ValueError):
    """The received data is not valid XDR, RPC or NFS."""


def uint(value: int) -> bytes:
    """Encode an unsigned 32-bit integer."""
    return struct.pack(">I", value)


def uhyper(value: int) -> bytes:
    """Encode an unsigned 64-bit integer."""
    return struct.pack(">Q", value)


def opaque(value: bytes) -> bytes:
    """Encode variable-length opaque data, padded to a multiple of four bytes."""
    return struct.pack(">I", len(value)) + value + bytes(-len(value) % 4)


class XdrReader:
    """Decodes the XDR values of a reply in order.

    Each method decodes the next value. If the reply is too short, the method raises `XdrError`.

    Args:
        data: The reply.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def fixed(self, count: int) -> bytes:
        """Decode `count` bytes of opaque data, and skip the padding.

        Raises:
            XdrError: The reply is too short.
        """
        end = self._position + count
        if end > len(self._data):
            raise XdrError(f"the reply is {end - len(self._data)} bytes too short")
        value = self._data[self._position : end]
        self._position = end + (-count % 4)
        return value

    def uint(self) -> int:
        """Decode an unsigned 32-bit integer."""
        return int(struct.unpack(">I", self.fixed(4))[0])

    def uhyper(self) -> int:
        """Decode an unsigned 64-bit integer."""
        return int(struct.unpack(">Q", self.fixed(8))[0])

    def opaque(self) -> bytes:
        """Decode variable-length opaque data."""
        return self.fixed(self.uint())

    def bitmap(self) -> list[int]:
        """Decode an NFSv4 attribute bitmap, and return its attribute numbers in ascending order.

        Raises:
            XdrError: The bitmap is too long.
        """
        count = self.uint()
        if count > _MAX_BITMAP_WORDS:
            raise XdrError(f"a bitmap has {count} words, more than the maximum of {_MAX_BITMAP_WORDS}")
        words = [self.uint() for _ in range(count)]
        return [32 * index + bit for index, word in enumerate(words) for bit in range(32) if word >> bit & 1]
