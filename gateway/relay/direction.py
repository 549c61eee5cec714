"""One direction of a socket relay: reads from one socket and writes to another, with few copies.

Small messages pass through one shared buffer with `recv_into` and `send`. A direction whose reads return 64 KiB or
more twice in a row carries bulk data. It switches to `splice` through a pipe, so the bytes do not enter this process.
"""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable

from gateway.relay.fin_detector import FinDetector
from gateway.relay.mmap_buffer import mmap_buffer
from gateway.relay.socket_pair import PairSocket
from gateway.relay.sockets import shutdown_write

_BUFFER = mmap_buffer(256 * 1024)
_VIEW = memoryview(_BUFFER)
_PIPE_SIZE = 1 << 20
_SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_BULK_READ = 64 * 1024
"""Minimum number of bytes that one read must return to count as a bulk read."""
_BULK_AFTER = 2
"""Consecutive bulk reads after which a direction switches to `splice`."""


class Direction:
    """One direction of a relay: from `source` to `sink`."""

    reverse: "Direction"
    """The other direction, whose source is the sink; the relay sets it, and deletes it at the end."""

    __slots__ = (
        "bulk_reads", "byte_count", "discarding", "fin_detector", "on_data", "pending", "pipe", "pipe_bytes",
        "reverse", "sink", "sink_shut", "source", "source_eof", "undelivered",
    )  # fmt: skip

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pending: memoryview | None = None
        """Data that was read and that the sink has not accepted."""
        self.pipe_bytes = 0
        """Bytes in the pipe."""
        self.pipe: tuple[int, int] | None = None
        self.fin_detector: FinDetector | None = None
        """Detects whether the sink received the peer's FIN: `splice` may drop the error of a reset."""
        self.bulk_reads = 0
        """Consecutive bulk reads."""
        self.byte_count = 0
        """Bytes read from the source."""
        self.on_data: Callable[[memoryview, float], None] | None = None
        self.source_eof = False
        self.sink_shut = False
        self.undelivered = False
        """Whether the sink did not accept everything that the source sent."""
        self.discarding = False
        """Whether the sink accepts no more data, so that further data from the source is discarded."""

    @property
    def blocked(self) -> bool:
        """Whether data waits for the sink."""
        return self.pending is not None or self.pipe_bytes > 0

    def pump(self) -> None:
        """Read once from the source, and write what the sink accepts.

        Raises:
            BlockingIOError: The source has no data.
            SocketError: The source or the sink failed.
        """
        # A tap needs the bytes, which `splice` does not return.
        if self.bulk_reads >= _BULK_AFTER and self.on_data is None and not self.discarding:
            self._splice_in()
            return
        try:
            count = self.source.recv_into(_BUFFER)
        except BlockingIOError:
            raise
        except OSError as error:
            raise SocketError(self.source, error, writing=False) from error
        if count == 0:
            self.end()
            return
        if self.discarding:
            return
        self.byte_count += count
        self.bulk_reads = self.bulk_reads + 1 if count >= _BULK_READ else 0
        if self.on_data is not None:
            self.on_data(_VIEW[:count], time.monotonic())
        sent = self._send(_VIEW[:count])
        if sent < count:
            self.pending = memoryview(bytes(_VIEW[sent:count]))

    def drain(self) -> None:
        """Write pending data, as much as the sink accepts.

        Raises:
            SocketError: The sink failed.
        """
        if self.pending is not None:
            sent = self._send(self.pending)
            self.pending = self.pending[sent:] if sent < len(self.pending) else None
        while self.pipe_bytes and self.pipe:
            try:
                self.pipe_bytes -= os.splice(self.pipe[0], self.sink.fileno(), self.pipe_bytes, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                return
            except OSError as error:
                raise SocketError(self.sink, error, writing=True) from error
        if self.source_eof and not self.blocked:
            self._shut_sink()

    def end(self) -> None:
        """Handle end-of-file from the source.

        Raises:
            SocketError: The stream ended in a reset that the kernel did not report.
        """
        if (isinstance(self.source, PairSocket) and self.source.broken()) or self.reverse.sink_was_reset():
            error = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            raise SocketError(self.source, error, writing=False)
        self.source_eof = True
        if not self.blocked:
            self._shut_sink()

    def abandon(self) -> None:
        """Discard pending data and everything that the source still sends: the sink accepts no more data.

        The source is still read. A peer that blocks on sending might never read what the other direction delivers.
        """
        self.close()
        self.pending, self.pipe_bytes = None, 0
        self.discarding = self.sink_shut = self.undelivered = True

    def sink_was_reset(self) -> bool:
        """Return whether `splice` has dropped a reset by the sink's peer, before the end of the peer's stream.

        Only valid if the sink has failed, or if reading from it returns end-of-file.
        """
        return self.fin_detector is not None and not self.fin_detector.has_fin(self.reverse.byte_count)

    def close(self) -> None:
        """Close the pipe."""
        if self.pipe:
            for fd in self.pipe:
                os.close(fd)
            self.pipe = None

    def _shut_sink(self) -> None:
        if not self.sink_shut:
            self.sink_shut = True
            shutdown_write(self.sink)

    def _send(self, data: memoryview) -> int:
        try:
            return self.sink.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise SocketError(self.sink, error, writing=True) from error

    def _start_splicing(self) -> tuple[int, int] | None:
        """Open the pipe; return None if there are no descriptors, or the sink has failed already."""
        if self.sink.family != socket.AF_UNIX:
            self.fin_detector = FinDetector.of(self.sink, self.reverse.byte_count)
            if self.fin_detector is None:
                return None
        self.pipe = _open_pipe()
        return self.pipe

    def _splice_in(self) -> None:
        pipe = self.pipe or self._start_splicing()
        if pipe is None:
            self.bulk_reads = -(1 << 30)  # never use `splice` for this connection
            return
        try:
            count = os.splice(self.source.fileno(), pipe[1], _PIPE_SIZE, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            raise
        except OSError as error:
            raise SocketError(self.source, error, writing=False) from error
        if count == 0:
            self.end()
            return
        self.byte_count += count
        self.pipe_bytes += count
        if count < _BULK_READ:
            self.bulk_reads = 0
        self.drain()


class SocketError(Exception):
    """A socket failed.

    Args:
        sock: The socket.
        error: The error.
        writing: Whether writing to it failed; otherwise reading from it failed.
    """

    def __init__(self, sock: socket.socket, error: OSError, *, writing: bool) -> None:
        super().__init__()
        self.sock = sock
        self.error = error
        self.writing = writing


def _open_pipe() -> tuple[int, int] | None:
    try:
        pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # the user's pipe limit is reached (pipe(7)); the default size works too
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return pipe
