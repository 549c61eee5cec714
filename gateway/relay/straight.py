"""The straight relay: two plain sockets, no task, no copy that is not needed.

Small messages go through one shared buffer by `recv_into` and `send`. A direction that fills the buffer twice
in a row is bulk, and moves on to `splice` through a pipe, where the bytes never enter this process.
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

from gateway.contracts import Ending
from gateway.measure import Histogram, Tap, waiting_since
from gateway.relay.linger import lingerer
from gateway.relay.pages import pages
from gateway.relay.pair import PairSocket
from gateway.relay.readiness import GONE, READ, WRITE
from gateway.relay.sockets import finish, reset, shut_write, was_reset
from gateway.relay.watch import Watch

log = logging.getLogger(__name__)

_BUFFER = pages(256 * 1024)
_VIEW = memoryview(_BUFFER)
_PIPE_SIZE = 1 << 20
_SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_BULK_READ = 64 * 1024
_BULK_AFTER = 2


class _Direction:
    """One way of a relay: from `source` to `sink`."""

    __slots__ = (
        "bulk", "discards", "held", "lost", "moved", "piped", "pipes", "read_done", "seen", "sink", "source",
        "written_done",
    )  # fmt: skip

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.held: memoryview | None = None
        self.piped = 0
        self.pipes: tuple[int, int] | None = None
        self.bulk = 0
        self.moved = 0
        self.seen: Callable[[memoryview, float], None] | None = None
        self.read_done = False
        self.written_done = False
        self.lost = False
        """Whether the sink took less than the source sent."""
        self.discards = False
        """Whether the sink takes nothing more, so that the rest of what the source sends is dropped."""

    @property
    def full(self) -> bool:
        return self.held is not None or self.piped > 0

    def pump(self) -> None:
        """Read what there is once, and write what the sink takes.

        Raises:
            BlockingIOError: The source has nothing.
            _GoneError: That socket is gone.
        """
        if self.bulk >= _BULK_AFTER and self.seen is None and not self.discards:  # a pipe shows and drops nothing
            self._splice_in()
            return
        try:
            count = self.source.recv_into(_BUFFER)
        except BlockingIOError:
            raise
        except OSError as error:
            raise _GoneError(self.source, error, writing=False) from error
        if count == 0:
            self.end()
            return
        if self.discards:
            return
        self.moved += count
        self.bulk = self.bulk + 1 if count >= _BULK_READ else 0
        if self.seen is not None:
            self.seen(_VIEW[:count], time.monotonic())
        sent = self._send(_VIEW[:count])
        if sent < count:
            self.held = memoryview(bytes(_VIEW[sent:count]))

    def drain(self) -> None:
        """Write what is held, as far as the sink takes it."""
        if self.held is not None:
            sent = self._send(self.held)
            self.held = self.held[sent:] if sent < len(self.held) else None
        while self.piped and self.pipes:
            try:
                self.piped -= os.splice(self.pipes[0], self.sink.fileno(), self.piped, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                return
            except OSError as error:
                raise _GoneError(self.sink, error, writing=True) from error
        if self.read_done and not self.full:
            self._finish()

    def end(self) -> None:
        """The source has sent everything.

        Raises:
            _GoneError: Its stream broke off.
        """
        if isinstance(self.source, PairSocket) and self.source.broken():
            error = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            raise _GoneError(self.source, error, writing=False)
        self.read_done = True
        if not self.full:
            self._finish()

    def abandon(self) -> None:
        """Drop what the sink has not taken, and what the source still sends: the sink takes nothing more.

        The source is still read. One that cannot send may never read what the other direction brings.
        """
        self.close()
        self.held, self.piped = None, 0
        self.discards = self.written_done = self.lost = True

    def close(self) -> None:
        if self.pipes:
            for fd in self.pipes:
                os.close(fd)
            self.pipes = None

    def _finish(self) -> None:
        if not self.written_done:
            self.written_done = True
            shut_write(self.sink)

    def _send(self, data: memoryview) -> int:
        try:
            return self.sink.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _GoneError(self.sink, error, writing=True) from error

    def _splice_in(self) -> None:
        if self.pipes is None:
            self.pipes = _pipe()
            if self.pipes is None:
                self.bulk = -(1 << 30)  # no descriptors to spare: copy for the rest of this connection
                return
        try:
            count = os.splice(self.source.fileno(), self.pipes[1], _PIPE_SIZE, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            raise
        except OSError as error:
            raise _GoneError(self.source, error, writing=False) from error
        if count == 0:
            self.end()
            return
        self.moved += count
        self.piped += count
        if count < _BULK_READ:
            self.bulk = 0
        self.drain()


class _GoneError(Exception):
    """A socket failed.

    Args:
        sock: Which.
        error: With what.
        writing: Whether it takes nothing more; otherwise its own stream broke off.
    """

    def __init__(self, sock: socket.socket, error: OSError, *, writing: bool) -> None:
        super().__init__()
        self.sock = sock
        self.error = error
        self.writing = writing


def _pipe() -> tuple[int, int] | None:
    try:
        pipes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # the user's pipe budget is used up; the default size still works
        fcntl.fcntl(pipes[1], fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return pipes


class StraightRelay:
    """Joins a client to a backend socket and owns both; see `gateway.contracts.Relay`.

    Args:
        client: The accepted socket, non-blocking.
        backend: The dialled socket, non-blocking.
        latency: Where to count response latency.
        tap: Sees the bytes, until it is finished.
    """

    __slots__ = (
        "_asked", "_back", "_backend", "_backend_watch", "_client", "_client_watch", "_ending", "_forth", "_latency",
        "_tap", "answers", "ended", "last_active",
    )  # fmt: skip

    def __init__(
        self, client: socket.socket, backend: socket.socket, latency: Histogram, tap: Tap | None = None
    ) -> None:
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.last_active = time.monotonic()
        self.answers = 0
        self._client = client
        self._backend = backend
        self._forth = _Direction(client, backend)
        self._back = _Direction(backend, client)
        self._latency = latency
        self._tap = tap
        if tap is not None:
            self._forth.seen, self._back.seen = tap.forth, tap.back
        self._asked = 0.0
        self._ending = Ending.FINISHED
        self._client_watch = Watch(client, self._on_client, READ)
        self._backend_watch = Watch(backend, self._on_backend, READ)

    @property
    def to_backend(self) -> int:
        """Bytes read from the client."""
        return self._forth.moved

    @property
    def from_backend(self) -> int:
        """Bytes read from the backend."""
        return self._back.moved

    @property
    def asked(self) -> bool:
        """See `gateway.contracts.Relay`."""
        return self._asked > 0

    @property
    def waiting_since(self) -> float | None:
        """See `gateway.contracts.Relay`."""
        return waiting_since(self._tap, self._asked)

    def abort(self, ending: Ending) -> None:
        """Reset both ends now."""
        if self.ended.done():
            return
        self._release()
        reset(self._client)
        reset(self._backend)
        self.ended.set_result(ending)

    @property
    def upload_ended(self) -> bool:
        """Whether the client ended its stream cleanly, and the backend's socket has taken all of it."""
        return self._forth.written_done and not self._forth.lost

    def lose_upload(self) -> None:
        """Reset the client once it has the whole response: the backend did not get everything that it sent.

        What the client sends until then is read and dropped.
        """
        if not self.ended.done():
            self._forth.abandon()
            self._settle()

    def _on_client(self, event: int) -> None:
        self.last_active = time.monotonic()
        before = self._forth.moved
        self._on_event(event, self._client_watch, self._forth, self._back)
        if self._forth.moved != before:
            self._asked = self.last_active

    def _on_backend(self, event: int) -> None:
        self.last_active = now = time.monotonic()
        before = self._back.moved
        self._on_event(event, self._backend_watch, self._back, self._forth)
        if self._asked and self._back.moved != before:
            self.answers += 1
            if self._tap is None or self._tap.meter is None:
                self._latency.observe(now - self._asked)
            self._asked = 0.0

    def _on_event(self, event: int, watch: Watch, reads: _Direction, writes: _Direction) -> None:
        """One of the two sockets is ready: `reads` takes from it, `writes` gives to it."""
        mask = watch.mask
        try:
            if not mask & (READ | WRITE):
                if watch.failed(event):
                    self._go_on_without(reads.source)
                    self._settle()
                return
            if event & (WRITE | GONE) and writes.full:
                writes.drain()
            if event & ~WRITE and mask & READ:
                reads.pump()
                if self._tap is not None and self._tap.finished:
                    self._tap = self._forth.seen = self._back.seen = None
        except BlockingIOError:
            pass
        except _GoneError as gone:
            if gone.writing:
                self._go_on_without(gone.sock, gone.error)
            else:
                self.abort(Ending.CLIENT_RESET if gone.sock is self._client else Ending.BACKEND_RESET)
        except Exception:
            log.exception("a relay failed; both its ends are reset")
            self.abort(Ending.ABORTED)
            return
        self._settle()

    def _go_on_without(self, sock: socket.socket, error: OSError | None = None) -> None:
        """Give `sock` nothing more; what it said is still delivered, if its stream ended before.

        Args:
            sock: Which.
            error: What it failed with, where that was seen: the kernel reports an error only once.
        """
        forth, back = self._forth, self._back
        reads, writes = (forth, back) if sock is self._client else (back, forth)
        ending = Ending.CLIENT_RESET if reads is forth else Ending.BACKEND_RESET
        if not reads.read_done and was_reset(sock, error):
            self.abort(ending)
            return
        writes.abandon()
        if reads is forth:
            self._ending = ending

    def _settle(self) -> None:
        if self.ended.done():
            return
        forth, back = self._forth, self._back
        if forth.written_done and back.written_done:
            self._release()
            for sock, lost in ((self._client, forth.lost), (self._backend, back.lost)):
                if lost:
                    lingerer().take(sock, lost=True)
                else:
                    finish(sock)
            self.ended.set_result(self._ending)
            return
        self._client_watch.want(_mask(forth, back), shut=back.written_done)
        self._backend_watch.want(_mask(back, forth), shut=forth.written_done)

    def _release(self) -> None:
        self._client_watch.close()
        self._backend_watch.close()
        self._forth.close()
        self._back.close()


def _mask(reads: _Direction, writes: _Direction) -> int:
    return (0 if reads.read_done or reads.full else READ) | (WRITE if writes.full else 0)
