"""Copies bytes in one direction of a socket relay: reads from one socket and writes to another.

Small messages pass through one shared buffer with `recv_into` and `send`. After two consecutive reads of 64 KiB or
more, the direction switches to `splice`. `splice` moves the bytes through a pipe, without a copy into this process.
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
from gateway.relay.socket_pair import SocketPairEnd
from gateway.relay.sockets import shutdown_write

_BUFFER = mmap_buffer(256 * 1024)
_VIEW = memoryview(_BUFFER)
_PIPE_SIZE = 1 << 20
_SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_BULK_READ = 64 * 1024
"""A read that returns at least this number of bytes is a bulk read."""
_BULK_AFTER = 2
"""Number of consecutive reads of at least `_BULK_READ` bytes after which a direction switches to `splice`."""


class RelayDirection:
    """Copies bytes in one direction of a relay, from `source` to `sink`."""

    reverse: "RelayDirection"
    """The opposite direction, which reads from `sink`. The relay sets this attribute, and deletes it when the relay
    ends."""

    __slots__ = (
        "bulk_reads", "byte_count", "discarding", "fin_detector", "on_data", "pending", "pipe", "pipe_bytes",
        "reverse", "sink", "sink_shut", "source", "source_eof", "undelivered",
    )  # fmt: skip

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pending: memoryview | None = None
        """Data that was read from the source and that the sink has not accepted yet."""
        self.pipe_bytes = 0
        """Number of bytes in the pipe."""
        self.pipe: tuple[int, int] | None = None
        self.fin_detector: FinDetector | None = None
        """Detects whether the sink's peer sent a FIN. With `splice`, a reset can look like a FIN.

        None if the direction does not use `splice`, or if the sink is a unix socket.
        """
        self.bulk_reads = 0
        """Number of consecutive reads of at least `_BULK_READ` bytes. A negative number prevents `splice`."""
        self.byte_count = 0
        """Number of bytes read from the source."""
        self.on_data: Callable[[memoryview, float], None] | None = None
        self.source_eof = False
        self.sink_shut = False
        self.undelivered = False
        """Whether data from the source was lost, because the sink did not accept it."""
        self.discarding = False
        """Whether to discard all later data from the source, because writes to the sink fail."""

    @property
    def blocked(self) -> bool:
        """Whether data that was read from the source still waits until the sink accepts it."""
        return self.pending is not None or self.pipe_bytes > 0

    def pump(self) -> None:
        """Read once from the source, and write as much as the sink accepts.

        Raises:
            BlockingIOError: The source has no data.
            RelaySocketError: The source or the sink failed.
        """
        # A tap needs the bytes, but `splice` does not copy them into this process.
        splices = self.bulk_reads >= _BULK_AFTER and self.on_data is None and not self.discarding
        if splices and self._splice_in():
            return
        try:
            count = self.source.recv_into(_BUFFER)
        except BlockingIOError:
            raise
        except OSError as error:
            raise RelaySocketError(self.source, error, writing=False) from error
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

    def write_pending(self) -> None:
        """Write as much of the pending data as the sink accepts.

        Raises:
            RelaySocketError: The sink failed.
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
                raise RelaySocketError(self.sink, error, writing=True) from error
        if self.source_eof and not self.blocked:
            self._shut_sink()

    def end(self) -> None:
        """Handle end-of-file from the source.

        Raises:
            RelaySocketError: The source's peer reset the connection, but the kernel reported end-of-file.
        """
        if (isinstance(self.source, SocketPairEnd) and self.source.broken()) or self.reverse.sink_was_reset():
            error = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            raise RelaySocketError(self.source, error, writing=False)
        self.source_eof = True
        if not self.blocked:
            self._shut_sink()

    def abandon(self) -> None:
        """Discard pending data and all later data from the source, because writes to the sink fail.

        The direction still reads from the source. Otherwise, the source's peer could block in a write, and never read
        the data of the opposite direction.
        """
        self.close()
        self.pending, self.pipe_bytes = None, 0
        self.discarding = self.sink_shut = self.undelivered = True

    def sink_was_reset(self) -> bool:
        """Return whether the sink's peer reset the connection, and `splice` hid the reset.

        Call this only after the sink has failed, or after a read from the sink has returned end-of-file.
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
            raise RelaySocketError(self.sink, error, writing=True) from error

    def _start_splicing(self) -> tuple[int, int] | None:
        """Open and return a pipe for `splice`. Return None if no descriptors are left, or if the sink has failed."""
        if self.sink.family != socket.AF_UNIX:
            self.fin_detector = FinDetector.of(self.sink, self.reverse.byte_count)
            if self.fin_detector is None:
                return None
        self.pipe = _open_pipe()
        return self.pipe

    def _splice_in(self) -> bool:
        """Move data from the source to the sink through the pipe. Return whether this was possible."""
        pipe = self.pipe or self._start_splicing()
        if pipe is None:
            # `splice` is not possible now. Do not retry `splice` until a short read sets `bulk_reads` to 0.
            self.bulk_reads = -(1 << 30)
            return False
        try:
            count = os.splice(self.source.fileno(), pipe[1], _PIPE_SIZE, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            count = 0
        except OSError as error:
            raise RelaySocketError(self.source, error, writing=False) from error
        if count == 0:
            # `splice` does not read past the mark of urgent data: at the mark, it returns 0 or EAGAIN, although more
            # bytes have arrived. Therefore, call recv(2): it returns these bytes, or shows that there are none.
            self.bulk_reads = 0
            return False
        self.byte_count += count
        self.pipe_bytes += count
        if count < _BULK_READ:
            self.bulk_reads = 0
        self.write_pending()
        return True


class RelaySocketError(Exception):
    """A read or write on a socket of a relay failed.

    Args:
        sock: The socket.
        error: The error of the system call.
        writing: Whether the write failed; False if the read failed.
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
    with contextlib.suppress(OSError):  # the user's limit on pipe memory is reached (pipe(7)): use the default size
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return pipe
