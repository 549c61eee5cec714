"""Handles the socket of a client whose bytes asyncssh forwards over an SSH channel.

The two directions of a channel end independently (RFC 4254, section 5.3). A client that has sent EOF still gets the
response. If the backend stops reading, the relay still delivers the data that the backend has sent. CHANNEL_CLOSE
ends the backend's stream, even without a preceding CHANNEL_EOF.
"""

import logging
import socket
import time

from gateway.contracts.states import CloseReason
from gateway.relay.fd_poller import HANGUP, READ, WRITE
from gateway.relay.fd_registration import FdRegistration
from gateway.relay.lingering_close import lingering_closer
from gateway.relay.send_buffer import SendBuffer
from gateway.relay.sockets import close_gracefully, reset, shutdown_write, was_reset
from gateway.ssh.asyncssh_relay_state import AsyncsshRelayState

log = logging.getLogger(__name__)


class AsyncsshRelayClientSide(AsyncsshRelayState):
    """Handles the client's socket of a relay; base class of `AsyncsshRelay`, which handles the channel."""

    def attach(self, client: socket.socket) -> None:
        """See `gateway.ssh.channel_interfaces.SshChannel`."""
        self._client = client
        self._watch = FdRegistration(client, self._on_client_event, READ)
        if self._link_lost and not self._backend_eof:
            self._finish(CloseReason.LINK_LOST)
            return
        if self._send_buffer:
            self._flush_send_buffer()
        self._propagate_end()

    def abort(self, close_reason: CloseReason) -> None:
        """Reset the client's connection, and close the channel.

        If `close_reason` is LINK_LOST and the backend's whole stream has arrived, first deliver the stream to the
        client.
        """
        if self.ended.done():
            return
        if close_reason is CloseReason.LINK_LOST and self._backend_eof:
            self._on_link_lost()
            return
        self._send_close()
        self._finish(close_reason)

    # `AsyncsshRelay` implements the methods below.

    def _read_client(self) -> None:
        """Read from the client once, and send the data on the channel."""
        raise NotImplementedError

    def _accepts_data(self) -> bool:
        """Return whether the channel accepts data from the client now."""
        raise NotImplementedError

    def _send_eof(self) -> None:
        """Send CHANNEL_EOF."""
        raise NotImplementedError

    def _send_close(self) -> None:
        """Close the channel. Further calls have no effect."""
        raise NotImplementedError

    def _leave_send_queue(self) -> None:
        """Remove this relay from the `SendQueue`."""
        raise NotImplementedError

    def _consumed(self, count: int) -> None:
        """Count bytes as consumed, and send a window adjust when one is due.

        Args:
            count: Number of bytes that were delivered to the client, or dropped because sending to the client failed.
        """
        raise NotImplementedError

    # `AsyncsshRelay` calls the methods below for events of the channel.

    def _on_backend_eof(self, *, close: bool) -> None:
        """Handle the end of the backend's stream.

        Args:
            close: Whether the peer has also closed the channel.
        """
        self._backend_eof = True
        if close:
            self._channel_closed = self._channel_unwritable = True
            self._leave_send_queue()
        self._propagate_end()

    def _on_link_lost(self) -> None:
        """Reset the client's connection, because the SSH connection is lost.

        If the backend's whole stream has arrived, deliver the stream to the client first.
        """
        if self._channel_closed:
            return  # the peer has already closed the channel: the relay does not need the SSH connection
        self._link_lost = self._channel_unwritable = True
        self._leave_send_queue()
        if self._client is None:
            if not self._send_buffer:  # `attach` might never be called: release the window now
                self.window.close()
            return
        if self._backend_eof and not self._client_unwritable:
            self._propagate_end()
        else:
            self._finish(CloseReason.LINK_LOST)

    # The methods below handle events of the client.

    def resume_sending(self) -> None:
        """Read from the client once, and send the data. `SendQueue` calls this method when it is the relay's turn."""
        if not self.ended.done():
            self._read_client()
            self._update_interest()

    def _on_client_event(self, event: int) -> None:
        watch = self._watch
        if watch is None:
            return
        try:
            if event == watch.mask == READ:
                self._read_client()  # `_read_client` calls `_update_interest` if necessary
            else:
                self._handle_client_event(event, watch)
        except Exception:
            log.exception("a relay failed; the connection of its client is reset")
            self.abort(CloseReason.ABORTED)

    def _handle_client_event(self, event: int, watch: FdRegistration) -> None:
        mask = watch.mask
        if not mask & (READ | WRITE):
            if watch.is_failure(event):
                self._on_client_unwritable()
            return
        if event & (WRITE | HANGUP) and self._send_buffer:
            self._flush_send_buffer()
        if event & ~WRITE and mask & READ and not self.ended.done():
            self._read_client()
        self._update_interest()

    def _on_client_eof(self) -> None:
        """Handle the end of the client's stream: send CHANNEL_EOF."""
        if self._client_was_reset:
            self._on_client_reset()
            return
        self._client_eof = True
        self._send_eof()
        if self._client_unwritable:
            self._send_close()
            self._finish(CloseReason.CLIENT_RESET)
        else:
            self._propagate_end()

    def _on_client_reset(self) -> None:
        """Close the channel, because the client has reset its connection."""
        self._client_unwritable = self._client_was_reset = True
        self.abort(CloseReason.CLIENT_RESET)

    def _on_client_unwritable(self, error: OSError | None = None) -> None:
        """Stop sending to the client for good, because sending failed, or the client's socket reports an error.

        If the client has closed its connection without a reset, the relay still sends all of the client's data to the
        backend. If the client has reset its connection, the relay sends only the data that the channel accepts
        immediately. The relay then closes the channel, because SSH cannot forward a reset (RFC 4254, section 5.3).

        Args:
            error: The error that a system call on the socket raised; None to read SO_ERROR. If a call raised an
                error, pass it, because the kernel has then already cleared SO_ERROR.
        """
        client = self._client
        if client is None or self.ended.done():
            return
        self._client_unwritable = True
        self._client_was_reset |= was_reset(client, error)
        if self._send_buffer:
            dropped, self._send_buffer = self._send_buffer, None
            self._consumed(len(dropped))
        if self._client_eof or self._channel_unwritable:
            self._send_close()
            self._finish(CloseReason.CLIENT_RESET)
        elif self._client_was_reset:
            sent = -1
            while sent != self.to_backend and not self.ended.done():
                sent = self.to_backend
                self._read_client()
            self.abort(CloseReason.CLIENT_RESET)
        else:
            self._update_interest()

    def _flush_send_buffer(self) -> None:
        client, buffer = self._client, self._send_buffer
        if client is None or buffer is None:
            return
        try:
            sent = buffer.send_to(client)
        except OSError as error:
            self._on_client_unwritable(error)
            return
        self.last_active = time.monotonic()
        self._consumed(sent)
        self.from_backend += sent
        if not buffer:
            self._propagate_end()

    def _buffer(self, data: bytes | memoryview) -> None:
        """Append `data` to the send buffer. Drop `data` if the relay has ended or sending has failed."""
        if self.ended.done() or self._client_unwritable:
            return
        if self._send_buffer is None:
            self._send_buffer = SendBuffer()
        self._send_buffer.append(data)

    # The methods below forward the backend's EOF to the client, and end the relay.

    def _propagate_end(self) -> None:
        """Forward the backend's EOF to the client, and end the relay if nothing is left to relay.

        Nothing is left if both directions have ended, the peer has closed the channel, or the SSH connection is lost.
        If data still waits for the client, neither forward EOF nor end the relay.
        """
        if self._client is None or self.ended.done():
            return
        if self._send_buffer:
            self._update_interest()
            return
        if self._backend_eof and not self._eof_delivered:
            self._eof_delivered = True
            shutdown_write(self._client)
        if self._link_lost:
            self._finish(CloseReason.LINK_LOST)
        elif self._channel_closed:
            self._finish(CloseReason.FINISHED)
        elif self._backend_eof and self._client_eof:
            self._send_close()
            self._finish(CloseReason.FINISHED)
        else:
            self._update_interest()

    def _finish(self, close_reason: CloseReason) -> None:
        """Close the client's connection, and complete `ended` with `close_reason`.

        Instead of a normal close, reset the connection if the relay was aborted, or if the client did not get the
        backend's whole stream.
        """
        if self.ended.done():
            return
        self._leave_send_queue()
        client = self._client
        if client is not None:
            if self._watch is not None:
                self._watch.close()
            if not self._eof_delivered or close_reason not in (CloseReason.FINISHED, CloseReason.LINK_LOST):
                reset(client)
            elif self._client_eof and not (self._link_lost or self._client_data_lost):
                close_gracefully(client)
            else:
                lingering_closer().close_later(client, reset_after=self._link_lost or self._client_data_lost)
        self._send_buffer = None
        self.window.close()
        self.ended.set_result(close_reason)

    def _update_interest(self) -> None:
        if self._watch is None or self.ended.done():
            return
        reading = not (self._client_eof or self._channel_unwritable) and self._accepts_data()
        self._watch.set_events(
            (READ if reading else 0) | (WRITE if self._send_buffer else 0),
            shut=self._eof_delivered or self._client_unwritable,
        )
