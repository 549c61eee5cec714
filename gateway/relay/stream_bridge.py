"""Copies bytes between a stream, such as a TLS connection, and a socket pair.

The user of a bridge is code that requires a socket. The user holds one end of the pair (`StreamBridge.sock`). In this
module, the far side is the peer of the stream. An upload copies data from the user to the far side; a download copies
data from the far side to the user.
"""

import asyncio
import contextlib
import enum
import select
import socket
import time
from collections.abc import Callable
from math import inf

from gateway.connection_tap import Tap
from gateway.contracts.link import Stream
from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.relay.byte_stream import ByteStream
from gateway.relay.lingering_close import LINGER_TIMEOUT
from gateway.relay.socket_pair import socket_pair
from gateway.relay.socket_relay import SocketRelay

_CHUNK = 128 * 1024
_SHORT_CHUNK = 16 * 1024
_SHORT_BACKLOG = 16 * 1024
"""Maximum number of bytes in the socket pair of a bridge with small buffers. The maximum is small because the data
of all channels of an SSH connection waits behind these bytes."""
_POLL_INTERVAL = 0.5
_SILENCE_TIMEOUT = 15.0
"""If the stream does not support half-close, the bridge does not send end-of-file immediately after the upload. The
bridge first waits until the far side has sent no data for this number of seconds."""
_tasks: set[asyncio.Task[None]] = set()


class _FarReadResult(enum.Enum):
    """How the transfer of data from the far side to the socket pair ended."""

    COMPLETE = enum.auto()
    """The far side has sent end-of-file. The bridge has written all data to the socket pair."""
    BROKEN = enum.auto()
    """The stream failed."""
    UNREAD = enum.auto()
    """`StreamBridge.sock` was closed before all data from the far side was read."""


class StreamBridge:
    """Copies bytes between a stream and a socket pair, until both directions have ended.

    The caller uses `sock`, which is one of the two sockets of the pair.

    Args:
        far: The stream. The bridge owns it.
        short: Whether to keep the buffers small. Pass True if the connection carries several channels, as in SSH: the
            data of each channel waits behind buffered data of the others.
    """

    def __init__(self, far: ByteStream, *, short: bool) -> None:
        if short:
            far.limit_unsent()
        self._chunk = _SHORT_CHUNK if short else _CHUNK
        self.sock, self._inner = socket_pair(_SHORT_BACKLOG if short else None)
        """The two ends of the socket pair. The caller owns `sock`, and the bridge owns `_inner`."""
        self.sock.broken = lambda: self._broken
        self._broken = False
        self.on_upload_lost: Callable[[], None] = lambda: None
        """Called if the far side does not accept all data that was written to `sock`."""
        self.upload_is_complete: Callable[[], bool] = lambda: True
        """Returns whether the data that was written to `sock` is complete. The bridge itself cannot detect this,
        because a reset looks like end-of-file on a socket pair."""
        self._uploaded = 0
        self._far = far
        self._reading_since: float | None = None
        """Monotonic time, in seconds, at which the bridge began to wait for data from the far side. None while the
        bridge writes to the socket pair."""
        self.ended = asyncio.get_running_loop().create_task(self._run())
        """A task that is done when both directions have ended."""
        _tasks.add(self.ended)
        self.ended.add_done_callback(_tasks.discard)

    def join(self, client: Stream, latency: Histogram, tap: Tap | None) -> SocketRelay:
        """Relay bytes between a client and the bridge's socket. Return the relay.

        Args:
            client: The client's socket, non-blocking. The relay owns it.
            latency: Records the response latencies.
            tap: Observes the relayed bytes until `tap.finished` is true. None if the connection has no tap.
        """
        relay = SocketRelay(client, self.sock, latency, tap)
        self.on_upload_lost = relay.fail_upload
        self.upload_is_complete = lambda: relay.upload_complete
        relay.ended.add_done_callback(lambda _: None if _upload_continues(relay) else self.abort())
        return relay

    def abort(self) -> None:
        """Reset the stream, so that the far side does not mistake an incomplete upload for a complete one."""
        # Delay the cancellation: if a task is cancelled before its first step, its `finally` block never runs.
        asyncio.get_running_loop().call_soon(self.ended.cancel)

    async def _run(self) -> None:
        upload = asyncio.create_task(self._upload())
        download = asyncio.create_task(self._download())
        finished = False
        try:
            await self._wait_for_both(upload, download)
            finished = True
        finally:
            upload.cancel()
            download.cancel()
            try:
                # If this task is cancelled here, `gather` still waits until both tasks have ended.
                await asyncio.gather(upload, download, return_exceptions=True)
            finally:
                uploaded, downloaded = (_result(task) for task in (upload, download))
                self._close(uploaded=finished and uploaded is True, downloaded=downloaded)
        for failure in (uploaded, downloaded):
            if isinstance(failure, Exception):
                raise failure

    async def _wait_for_both(self, upload: "asyncio.Task[bool]", download: "asyncio.Task[_FarReadResult]") -> None:
        """Wait until both directions have ended, or until one direction can no longer make progress."""
        await asyncio.wait({upload, download}, return_when=asyncio.FIRST_COMPLETED)
        if not upload.done() and download.result() is _FarReadResult.COMPLETE:
            # After end-of-file from the far side, no pending read can report a reset. Therefore, poll for a reset.
            while not (upload.done() or self._far.was_reset):
                await asyncio.wait({upload}, timeout=_POLL_INTERVAL)
        elif not upload.done() and download.result() is _FarReadResult.UNREAD:
            await self._wait_for_upload(upload)
        if not self._far.supports_half_close:
            await self._wait_for_download(download, _SILENCE_TIMEOUT)
            if _result(upload) is True:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(_SILENCE_TIMEOUT):
                        await self._far.end()
        await self._wait_for_download(download, inf)

    async def _wait_for_upload(self, upload: "asyncio.Task[bool]") -> None:
        """Wait until the upload ends, or until the far side accepts no data for `LINGER_TIMEOUT` seconds."""
        before = -1
        while not upload.done() and self._uploaded != before:
            before = self._uploaded
            await asyncio.wait({upload}, timeout=LINGER_TIMEOUT)

    async def _wait_for_download(self, download: "asyncio.Task[_FarReadResult]", silence_timeout: float) -> None:
        """Wait until all data from the far side is copied. Return early if `sock` is closed.

        Args:
            download: The task of `_download`.
            silence_timeout: Maximum number of seconds to wait without data from the far side.
        """
        poller = select.poll()
        poller.register(self._inner, 0)  # with an empty mask, poll(2) reports only hang-ups and errors
        started = time.monotonic()
        while not (download.done() or poller.poll(0)):
            since = self._reading_since
            if since is not None and time.monotonic() - max(started, since) > silence_timeout:
                return
            await asyncio.wait({download}, timeout=_POLL_INTERVAL)

    async def _upload(self) -> bool:
        """Copy data from the socket pair to the far side. Return whether the far side accepted all data."""
        try:
            while data := await self._read_from_user():
                await self._far.write(data)
                self._uploaded += len(data)
            if not self.upload_is_complete():
                return False
            if self._far.supports_half_close:
                await self._far.end()
        except OSError:
            # A write to the far side failed. Make the next writes to `sock` fail, too, so that they do not block.
            _discard_unread(self._inner)
            self.on_upload_lost()
            return False
        return True

    async def _read_from_user(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._inner, self._chunk)
        except OSError:
            # The kernel returns an error if the user closed `sock` before reading all data, but only after the bridge
            # has read all bytes that the user wrote. Therefore, treat the error as end-of-file.
            return b""

    async def _download(self) -> _FarReadResult:
        """Copy data from the far side to the socket pair. Return how the download ended."""
        loop = asyncio.get_running_loop()
        while True:
            self._reading_since = time.monotonic()
            try:
                data = await self._far.read()
            except OSError:
                return _FarReadResult.BROKEN
            self._reading_since = None
            try:
                if not data:
                    self._inner.shutdown(socket.SHUT_WR)
                    return _FarReadResult.COMPLETE
                await loop.sock_sendall(self._inner, data)
            except OSError:
                return _FarReadResult.UNREAD

    def _close(self, *, uploaded: bool, downloaded: object) -> None:
        if downloaded is _FarReadResult.BROKEN or downloaded is None:
            self._broken = True
        discarded = _discard_unread(self._inner)
        if downloaded is _FarReadResult.COMPLETE and (discarded or not uploaded):
            self.on_upload_lost()
        self._inner.close()
        if uploaded and downloaded is not _FarReadResult.BROKEN:
            self._far.close()
        else:
            self._far.abort()


def _result(task: "asyncio.Task[bool] | asyncio.Task[_FarReadResult]") -> object:
    """Return the result or the exception of a task; None if the task was cancelled or is still running."""
    return None if not task.done() or task.cancelled() else task.exception() or task.result()


def _upload_continues(relay: SocketRelay) -> bool:
    """Return whether to send the rest of the upload after the relay has ended."""
    return relay.upload_complete and relay.ended.result() in (CloseReason.FINISHED, CloseReason.CLIENT_RESET)


def _discard_unread(sock: socket.socket) -> bool:
    """Shut down reading, and discard unread data, so that closing the socket does not reset the connection.

    Returns:
        Whether data was discarded.
    """
    discarded = False
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)
        while sock.recv(_CHUNK):
            discarded = True
    return discarded
