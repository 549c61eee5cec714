"""Relays bytes between two sockets in the event loop. Uses callbacks of the poller, without an asyncio task."""

import asyncio
import logging
import socket
import time

from gateway.connection_tap import Tap, waiting_since
from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.relay.fd_poller import HANGUP, READ, WRITE
from gateway.relay.fd_registration import FdRegistration
from gateway.relay.lingering_close import lingering_closer
from gateway.relay.relay_direction import RelayDirection, RelaySocketError
from gateway.relay.sockets import close_gracefully, reset, was_reset

log = logging.getLogger(__name__)


class SocketRelay:
    """Relays bytes between a client socket and a backend socket; implements `gateway.contracts.relay.Relay`.

    Args:
        client: The accepted socket, non-blocking. The relay owns it.
        backend: The dialed socket, non-blocking. The relay owns it.
        latency: Histogram that records the response latencies.
        tap: Observes the relayed bytes until `tap.finished` is true. None if the connection has no tap.
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
        self._upload = RelayDirection(client, backend)
        self._download = RelayDirection(backend, client)
        self._upload.reverse, self._download.reverse = self._download, self._upload
        self._latency = latency
        self._tap = tap
        if tap is not None:
            self._upload.on_data, self._download.on_data = tap.on_request, tap.on_response
        self._request_at = 0.0
        """Monotonic time of the last request byte without a response, in seconds; 0 if no response is pending."""
        self._close_reason = CloseReason.FINISHED
        self._client_registration = FdRegistration(client, self._on_client, READ)
        self._backend_registration = FdRegistration(backend, self._on_backend, READ)

    @property
    def to_backend(self) -> int:
        """See `gateway.contracts.relay.Relay`."""
        return self._upload.byte_count

    @property
    def from_backend(self) -> int:
        """See `gateway.contracts.relay.Relay`."""
        return self._download.byte_count

    @property
    def awaiting_response(self) -> bool:
        """See `gateway.contracts.relay.Relay`."""
        return self._request_at > 0

    @property
    def waiting_since(self) -> float | None:
        """See `gateway.contracts.relay.Relay`."""
        return waiting_since(self._tap, self._request_at)

    def abort(self, close_reason: CloseReason) -> None:
        """See `gateway.contracts.relay.Relay`."""
        if self.ended.done():
            return
        self._release()
        reset(self._client)
        reset(self._backend)
        self.ended.set_result(close_reason)

    @property
    def upload_complete(self) -> bool:
        """Whether the client sent end-of-file, and the backend's socket accepted all data from the client."""
        return self._upload.sink_shut and not self._upload.undelivered

    def fail_upload(self) -> None:
        """Discard data from the client from now on, because the backend did not get all of the client's data.

        The relay resets the client's connection after the client has received the whole response.
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

    def _on_event(
        self, event: int, registration: FdRegistration, reads: RelayDirection, writes: RelayDirection
    ) -> None:
        """Handle an event of the client's or the backend's socket.

        Args:
            event: The events that occurred, as a mask.
            registration: The registration of the socket with the poller.
            reads: The direction that reads from the socket.
            writes: The direction that writes to the socket.
        """
        mask = registration.mask
        try:
            if not mask & (READ | WRITE):
                if registration.is_failure(event):
                    self._stop_writing_to(reads.source)
                    self._update()
                return
            if event & (WRITE | HANGUP) and writes.blocked:
                writes.write_pending()
            if event & ~WRITE and mask & READ:
                reads.pump()
                if self._tap is not None and self._tap.finished:
                    self._tap = self._upload.on_data = self._download.on_data = None
        except BlockingIOError:
            pass
        except RelaySocketError as failure:
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
        """Stop writing to a socket, because it has failed or its peer has closed the connection.

        If the peer reset the connection before it sent end-of-file, reset both connections of the relay. Otherwise,
        discard all data for this socket, and continue to relay in the opposite direction.

        Args:
            sock: The client's or the backend's socket.
            error: The error of the failed system call; None to read SO_ERROR of the socket.
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
        """Finish the relay if both directions have ended; otherwise, update the event masks of the sockets."""
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
            del each.reverse  # break the reference cycle between the two directions


def _mask(reads: RelayDirection, writes: RelayDirection) -> int:
    return (0 if reads.source_eof or reads.blocked else READ) | (WRITE if writes.blocked else 0)
