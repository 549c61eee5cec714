"""Relays bytes between a client and an asyncssh channel, in the event loop.

This relay supports all ciphers, but is slower than the native engine. The base class `AsyncsshRelayClientSide`
handles the client's socket, and this module handles the channel.
"""

import socket
import time

import asyncssh

from gateway.connection_tap import Tap
from gateway.metric_types import Histogram
from gateway.ssh.asyncssh_internals import send_window, send_window_adjust, take_unread_data
from gateway.ssh.asyncssh_relay_client_side import AsyncsshRelayClientSide
from gateway.ssh.flow_control import MAX_SEND_PACKET
from gateway.ssh.send_queue import SendQueue

_READ_SIZE = 64 * 1024


class AsyncsshRelay(AsyncsshRelayClientSide, asyncssh.SSHTCPSession[bytes]):
    """Relays bytes between a client's socket and an asyncssh channel; implements `gateway.contracts.relay.Relay`.

    asyncssh uses this object as the channel's session. The methods that asyncssh calls must not raise: an exception
    would close the whole SSH connection.

    Args:
        latency: The histogram for response latency.
        queue: Determines the order in which the relays of the SSH connection send. None if asyncssh's own transport
            sends the data.
        tap: Observes the relayed bytes until `tap.finished` is true; None if the relay has no tap.
    """

    def __init__(self, latency: Histogram, queue: SendQueue | None, tap: Tap | None = None) -> None:
        super().__init__(latency, tap)
        self._queue = queue
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._window_full = False

    # asyncssh calls the methods below, except `attach`.

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        """Pause the new channel until a client is attached."""
        chan.pause_reading()
        self._channel = chan

    def attach(self, client: socket.socket) -> None:
        """See `gateway.ssh.channel_interfaces.SshChannel`. Also resume the paused channel."""
        super().attach(client)
        if self._channel is not None and not self._channel_unwritable:
            self._channel.resume_reading()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Send the backend's data to the client. Buffer the part that the client's socket does not accept."""
        del datatype
        client = self._client
        if client is None or self.ended.done():
            return
        self._record_received(data)
        sent = 0
        if not self._send_buffer:
            try:
                sent = client.send(data)
            except BlockingIOError:
                pass
            except OSError as error:
                self._on_client_unwritable(error)
            self.from_backend += sent
            self._consumed(sent)
        if self._client_unwritable:
            self._consumed(len(data))
        elif sent < len(data):
            self._buffer(memoryview(data)[sent:])
            self._update_interest()

    def _record_received(self, data: bytes) -> None:
        self.last_active = now = time.monotonic()
        if self._tap is not None:
            self._tap.on_response(memoryview(data), now)
            if self._tap.finished:
                self._tap = None
        if self._request_time:
            if self._tap is None or self._tap.tracker is None:
                self._latency.observe(now - self._request_time)
            self._request_time = 0.0
            self.responses += 1

    def eof_received(self) -> bool:
        """Handle CHANNEL_EOF. Return True, so that asyncssh keeps the other direction open."""
        self._on_backend_eof(close=False)
        return True

    def resume_writing(self) -> None:
        """Resume reading from the client, because the channel accepts data again."""
        if self._window_full:
            self._window_full = False
            self._update_interest()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the close of the channel or the loss of the SSH connection.

        First deliver the data that asyncssh has received, but has not yet passed to `data_received`.
        """
        del exc
        unread = take_unread_data(self._channel)
        for piece in unread.data:
            self._buffer(piece)
        if unread.closed:
            self._on_backend_eof(close=True)
        else:
            self._backend_eof |= unread.eof
            self._on_link_lost()

    # `AsyncsshRelayClientSide` calls the methods below.

    def _read_client(self) -> None:
        client, channel, queue = self._client, self._channel, self._queue
        if client is None or channel is None or self._channel_unwritable:
            return
        if queue is not None and not queue.may_send:
            queue.enqueue(self)
            self._update_interest()
            return
        room = send_window(channel)
        if not room:
            # The peer currently accepts no data. Do not write to the channel, because asyncssh would buffer the data.
            # If the peer then closed the channel, asyncssh would drop the buffered data.
            self._window_full = True
            self._update_interest()
            return
        try:
            data = client.recv(min(room, MAX_SEND_PACKET if queue is not None and queue.contended else _READ_SIZE))
        except BlockingIOError:
            return
        except OSError:
            self._on_client_reset()
            return
        self.last_active = time.monotonic()
        if not data:
            self._on_client_eof()
            return
        self._request_time = self.last_active
        if self._tap is not None:
            self._tap.on_request(memoryview(data), self.last_active)
        self.to_backend += len(data)
        try:
            channel.write(data)
        except BrokenPipeError:
            # The peer has closed the channel. The client still gets the data that the peer sent before the close.
            self._client_data_lost = self._window_full = True
            self._update_interest()

    def _accepts_data(self) -> bool:
        return not self._window_full and (self._queue is None or not self._queue.is_queued(self))

    def _send_eof(self) -> None:
        if self._channel is not None:
            self._channel.write_eof()

    def _send_close(self) -> None:
        if self._channel is not None and not self._channel_unwritable:
            self._channel.close()

    def _leave_send_queue(self) -> None:
        if self._queue is not None:
            self._queue.dequeue(self)

    def _consumed(self, count: int) -> None:
        window = self.window
        window.consumed += count
        if (
            window.consumed >= window.adjust_threshold
            and self._channel is not None
            and not (self._backend_eof or self._channel_unwritable)
        ):
            send_window_adjust(self._channel, window.grant())
