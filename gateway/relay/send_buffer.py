"""The bytes that a socket has not taken yet."""

import socket
from collections import deque
from itertools import islice

_CHUNK = 64 * 1024
"""Short pieces share a chunk of this size: an object for each would take many times their bytes."""
_MOST_CHUNKS = 16
"""In one sendmsg(2)."""


class SendBuffer:
    """A queue of bytes for one socket; `len` is what it holds, in bytes."""

    __slots__ = ("_chunks", "_sent", "_size")

    def __init__(self) -> None:
        self._chunks: deque[bytearray] = deque()
        self._sent = 0
        """How much of the first chunk is sent."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, data: bytes | memoryview) -> None:
        """Copy `data` to the end of the queue."""
        if not data:
            return
        self._size += len(data)
        if self._chunks and len(self._chunks[-1]) + len(data) <= _CHUNK:
            self._chunks[-1] += data
        else:
            self._chunks.append(bytearray(data))

    def send_to(self, sock: socket.socket) -> int:
        """Send as much as `sock` takes without blocking.

        Returns:
            The number of bytes sent.

        Raises:
            OSError: The socket failed; the buffer is then of no more use.
        """
        sent = 0
        while self._chunks:
            with memoryview(self._chunks[0]) as whole, memoryview(whole[self._sent :]) as first:
                try:
                    count = sock.sendmsg([first, *islice(self._chunks, 1, _MOST_CHUNKS)])
                except BlockingIOError:
                    break
            sent += count
            self._forget(count)
            if self._sent:
                break
        self._size -= sent
        return sent

    def _forget(self, count: int) -> None:
        """Drop `count` bytes from the front."""
        count += self._sent
        while self._chunks and count >= len(self._chunks[0]):
            count -= len(self._chunks.popleft())
        self._sent = count
