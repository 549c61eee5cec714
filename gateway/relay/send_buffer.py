"""The bytes that a socket has not taken yet."""

import socket
from collections import deque

_CHUNK = 128 * 1024
"""Short pieces share a chunk of this size: an object for each would take many times their bytes."""


class SendBuffer:
    """A queue of bytes for one socket; `size` is what it holds, in bytes."""

    __slots__ = ("_chunks", "size")

    def __init__(self) -> None:
        self._chunks: deque[bytearray] = deque()
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def append(self, data: bytes | memoryview) -> None:
        """Copy `data` to the end of the queue."""
        if not data:
            return
        self.size += len(data)
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
        chunks = self._chunks
        try:
            while chunks:
                chunk = chunks[0]
                count = sock.send(chunk)
                sent += count
                if count < len(chunk):
                    del chunk[:count]
                    break
                chunks.popleft()
        except BlockingIOError:
            pass
        self.size -= sent
        return sent
