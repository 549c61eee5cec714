"""The socket relay: joins two sockets in the event loop's selector, without a task and with few copies.

Small messages pass through one shared buffer with `recv_into` and `send`. A direction whose reads return 64 KiB or
more twice in a row carries bulk data. It switches to `splice` through a pipe, so the bytes do not enter this process.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable

from gateway.contracts import CloseReason
from gateway.measure import Histogram, Tap, waiting_since
from gateway.relay.fd_registration import FdRegistration
from gateway.relay.fin_detector import FinDetector
from gateway.relay.linger import lingering_closer
from gateway.relay.mmap_buffer import mmap_buffer
from gateway.relay.poller import HANGUP, READ, WRITE
from gateway.relay.socket_pair import PairSocket
from gateway.relay.sockets import close_gracefully, reset, shutdown_write, was_reset

log = logging.getLogger(__name__)

_BUFFER = mmap_buffer(256 * 1024)
_VIEW = memoryview(_BUFFER)
_PIPE_SIZE = 1 << 20
_SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_BULK_READ = 64 * 1024
"""Bytes of one read that count as bulk."""
_BULK_AFTER = 2
"""Consecutive bulk reads after which a direction switches to `splice`."""


class _Direction:
    """One direction of a relay: from `source` to `sink`."""

    reverse: "_Direction"
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
        return self.pending is not None or self.pipe_bytes > 0

    def pump(self) -> None:
        """Read once from the source, and write what the sink accepts.

        Raises:
            BlockingIOError: The source has no data.
            _SocketError: The source or the sink failed.
        """
        if self.bulk_reads >= _BULK_AFTER and self.on_data is None and not self.discarding:  # splice shows no bytes
            self._splice_in()
            return
        try:
            count = self.source.recv_into(_BUFFER)
        except BlockingIOError:
            raise
        except OSError as error:
            raise _SocketError(self.source, error, writing=False) from error
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
            _SocketError: The sink failed.
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
                raise _SocketError(self.sink, error, writing=True) from error
        if self.source_eof and not self.blocked:
            self._shut_sink()

    def end(self) -> None:
        """Handle end-of-file from the source.

        Raises:
            _SocketError: The stream ended in a reset that the kernel did not report.
        """
        if (isinstance(self.source, PairSocket) and self.source.broken()) or self.reverse.sink_was_reset():
            error = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            raise _SocketError(self.source, error, writing=False)
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
            raise _SocketError(self.sink, error, writing=True) from error

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
            self.bulk_reads = -(1 << 30)  # copy for the rest of this connection
            return
        try:
            count = os.splice(self.source.fileno(), pipe[1], _PIPE_SIZE, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            raise
        except OSError as error:
            raise _SocketError(self.source, error, writing=False) from error
        if count == 0:
            self.end()
            return
        self.byte_count += count
        self.pipe_bytes += count
        if count < _BULK_READ:
            self.bulk_reads = 0
        self.drain()


class _SocketError(Exception):
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
    with contextlib.suppress(OSError):  # over the user's pipe limit (pipe(7)): the default size works too
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return pipe


class SocketRelay:
    """Joins a client to a backend socket; a `gateway.contracts.Relay`.

    Args:
        client: The accepted socket, non-blocking. The relay owns it.
        backend: The dialed socket, non-blocking. The relay owns it.
        latency: Receives the response latencies.
        tap: Sees the bytes until it is finished.
    """

    __slots__ = (
        "_backend", "_backend_registration", "_client", "_client_registration", "_close_reason", "_download",
        "_latency", "_request_at", "_tap", "_upload", "ended", "last_active", "responses",
    )  # fmt: skip

    def __init__(
        self, client: socket.socket, backend: socket.socket, latency: Histogram, tap: Tap | None = None
    ) -> None:
        self.ended: asyncio.Future[CloseReason] = asyncio.get_running_loop().create_future()
        self.last_active = time.monotonic()
        self.responses = 0
        self._client = client
        self._backend = backend
        self._upload = _Direction(client, backend)
        self._download = _Direction(backend, client)
        self._upload.reverse, self._download.reverse = self._download, self._upload
        self._latency = latency
        self._tap = tap
        if tap is not None:
            self._upload.on_data, self._download.on_data = tap.on_request, tap.on_response
        self._request_at = 0.0
        """Monotonic time of the last request byte that has no response yet; 0: there is none."""
        self._close_reason = CloseReason.FINISHED
        self._client_registration = FdRegistration(client, self._on_client, READ)
        self._backend_registration = FdRegistration(backend, self._on_backend, READ)

    @property
    def to_backend(self) -> int:
        """Bytes read from the client."""
        return self._upload.byte_count

    @property
    def from_backend(self) -> int:
        """Bytes read from the backend."""
        return self._download.byte_count

    @property
    def awaiting_response(self) -> bool:
        """See `gateway.contracts.Relay`."""
        return self._request_at > 0

    @property
    def waiting_since(self) -> float | None:
        """See `gateway.contracts.Relay`."""
        return waiting_since(self._tap, self._request_at)

    def abort(self, reason: CloseReason) -> None:
        """Reset both sockets immediately."""
        if self.ended.done():
            return
        self._release()
        reset(self._client)
        reset(self._backend)
        self.ended.set_result(reason)

    @property
    def upload_complete(self) -> bool:
        """Whether the client sent end-of-file and the backend's socket accepted everything before it."""
        return self._upload.sink_shut and not self._upload.undelivered

    def fail_upload(self) -> None:
        """Reset the client after it has received the whole response: the backend did not get all of its data.

        Until then, data from the client is read and discarded.
        """
        if not self.ended.done():
            self._upload.abandon()
            self._update()

    def _on_client(self, event: int) -> None:
        self.last_active = time.monotonic()
        before = self._upload.byte_count
        self._on_event(event, self._client_registration, self._upload, self._download)
        if self._upload.byte_count != before:
            self._request_at = self.last_active

    def _on_backend(self, event: int) -> None:
        self.last_active = now = time.monotonic()
        before = self._download.byte_count
        self._on_event(event, self._backend_registration, self._download, self._upload)
        if self._request_at and self._download.byte_count != before:
            self.responses += 1
            if self._tap is None or self._tap.tracker is None:
                self._latency.observe(now - self._request_at)
            self._request_at = 0.0

    def _on_event(self, event: int, registration: FdRegistration, reads: _Direction, writes: _Direction) -> None:
        """Handle an event of the socket that is the source of `reads` and the sink of `writes`."""
        mask = registration.mask
        try:
            if not mask & (READ | WRITE):
                if registration.is_failure(event):
                    self._stop_writing_to(reads.source)
                    self._update()
                return
            if event & (WRITE | HANGUP) and writes.blocked:
                writes.drain()
            if event & ~WRITE and mask & READ:
                reads.pump()
                if self._tap is not None and self._tap.finished:
                    self._tap = self._upload.on_data = self._download.on_data = None
        except BlockingIOError:
            pass
        except _SocketError as failure:
            if failure.writing:
                self._stop_writing_to(failure.sock, failure.error)
            else:
                client_failed = failure.sock is self._client
                self.abort(CloseReason.CLIENT_RESET if client_failed else CloseReason.BACKEND_RESET)
        except Exception:
            log.exception("a relay failed: both of its connections are reset")
            self.abort(CloseReason.ABORTED)
            return
        self._update()

    def _stop_writing_to(self, sock: socket.socket, error: OSError | None = None) -> None:
        """Handle a socket that accepts no more data.

        If its own stream had ended before, deliver that to the other side; otherwise reset both sides.

        Args:
            sock: The client's or the backend's socket.
            error: The error, if a system call raised it. The kernel reports a socket error only once.
        """
        upload, download = self._upload, self._download
        reads, writes = (upload, download) if sock is self._client else (download, upload)
        reason = CloseReason.CLIENT_RESET if reads is upload else CloseReason.BACKEND_RESET
        if not reads.source_eof and (was_reset(sock, error) or writes.sink_was_reset()):
            self.abort(reason)
            return
        writes.abandon()
        if reads is upload:
            self._close_reason = reason

    def _update(self) -> None:
        """Finish if both directions are done; otherwise update the event masks."""
        if self.ended.done():
            return
        upload, download = self._upload, self._download
        if upload.sink_shut and download.sink_shut:
            self._release()
            for sock, undelivered in ((self._client, upload.undelivered), (self._backend, download.undelivered)):
                if undelivered:
                    lingering_closer().close_later(sock, reset_after=True)
                else:
                    close_gracefully(sock)
            self.ended.set_result(self._close_reason)
            return
        self._client_registration.set_events(_mask(upload, download), shut=download.sink_shut)
        self._backend_registration.set_events(_mask(download, upload), shut=upload.sink_shut)

    def _release(self) -> None:
        self._client_registration.close()
        self._backend_registration.close()
        for each in (self._upload, self._download):
            each.close()
            del each.reverse  # they refer to each other


def _mask(reads: _Direction, writes: _Direction) -> int:
    return (0 if reads.source_eof or reads.blocked else READ) | (WRITE if writes.blocked else 0)
