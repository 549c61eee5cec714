"""Buffers bytes that a socket has not accepted yet."""

import socket
from collections import deque
from itertools import islice

_CHUNK = 64 * 1024
"""Short pieces of data share a chunk of up to 64 KiB, because one object per piece would use much more memory."""
_MAX_IOVECS = 16
"""Maximum number of chunks for each sendmsg(2) call."""


class SendBuffer:
    """A queue of bytes to send on one socket; `len()` returns the number of queued bytes."""

    __slots__ = ("_chunks", "_sent", "_size")

    def __init__(self) -> None:
        self._chunks: deque[bytearray] = deque()
        self._sent = 0
        """Number of bytes of the first chunk that have been sent."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, data: bytes | memoryview) -> None:
        """Append a copy of `data`."""
        if not data:
            return
        self._size += len(data)
        if self._chunks and len(self._chunks[-1]) + len(data) <= _CHUNK:
            self._chunks[-1] += data
        else:
            self._chunks.append(bytearray(data))

    def send_to(self, sock: socket.socket) -> int:
        """Send as much as `sock` accepts without blocking.

        Returns:
            The number of bytes sent.

        Raises:
            OSError: The socket failed. The caller must discard the buffer.
        """
        sent = 0
        while self._chunks:
            with memoryview(self._chunks[0]) as whole, memoryview(whole[self._sent :]) as first:
                try:
                    count = sock.sendmsg([first, *islice(self._chunks, 1, _MAX_IOVECS)])
                except BlockingIOError:
                    break
            sent += count
            self._drop(count)
            if self._sent:
                break
        self._size -= sent
        return sent

    def _drop(self, count: int) -> None:
        count += self._sent
        while self._chunks and count >= len(self._chunks[0]):
            count -= len(self._chunks.popleft())
        self._sent = count
