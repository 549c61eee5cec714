"""Defines the interface of the streams, such as TLS connections, that `StreamBridge` uses."""

from typing import Protocol


class ByteStream(Protocol):
    """Defines the interface of a stream, such as a TLS connection, that `StreamBridge` uses.

    All methods raise `OSError` if the stream has failed.
    """

    @property
    def supports_half_close(self) -> bool:
        """Whether the other end can still send data after it has received end-of-file."""

    @property
    def was_reset(self) -> bool:
        """Whether the stream failed. If so, sent data might be lost."""

    def limit_unsent(self) -> None:
        """Keep the stream's send buffers small, so that urgent data does not queue behind bulk data."""

    async def read(self) -> bytes:
        """Wait for data. Return empty bytes if the other end has sent end-of-file."""

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""

    async def end(self) -> None:
        """Send end-of-file to the other end."""

    def close(self) -> None:
        """Close the stream. The other end still receives all sent data."""

    def abort(self) -> None:
        """Reset the stream."""
