"""Relays between a client and a channel of the native data plane, without tasks, queues or needless copies."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import asyncssh
from asyncssh.packet import SSHPacket, UInt32

from gateway.measurement import Histogram, Tap
from gateway.ssh import asyncssh_internals
from gateway.ssh.channel_relay import ChannelRelay
from gateway.ssh.client_connection import ClientConnection
from gateway.ssh.flow_control import (
    INITIAL_BUDGET,
    MAX_RECEIVE_PACKET,
    ByteBudget,
    ReceiveWindow,
)
from gateway.ssh.packet_transport import PacketTransport
from gateway.ssh.packet_writer import MAX_SEND_PACKET, SLOT_VIEWS, SLOTS

_SAMPLE_EVERY = 4
"""The relay records the latency of one in four responses, starting with the first. If it recorded every response, it
would relay 3 % fewer responses per second."""
_MAX_PIECES = 64
"""Maximum number of buffers for one call of sendmsg(2). With more buffers, it is faster to join them first. The
kernel refuses more than 1024."""
RoundTrip = Callable[[], float | None]
"""Returns the last measured round trip of a connection in seconds, or None."""


class NativeChannel(ChannelRelay):
    """Relays between a client and a channel of the native data plane; implements `gateway.contracts.link.Relay`.

    asyncssh uses this object as the handler of the channel.

    Args:
        conn: The SSH connection.
        transport: The transport of `conn`.
        latency: The histogram for response latency.
        round_trip: Returns the connection's last measured round trip.
        growth_budget: The budget from which the receive window takes bytes when it grows.
        tap: Observes the bytes until the tap is finished.
    """

    __slots__ = (
        "_bulk", "_conn", "_freed", "_local_id", "_reader", "_remote_id", "_remote_max_packet", "_remote_window",
        "_round_trip", "_sent_close", "_until_sample", "_writer", "incoming", "opened",
    )  # fmt: skip

    def __init__(
        self,
        conn: ClientConnection,
        transport: PacketTransport,
        latency: Histogram,
        round_trip: RoundTrip,
        growth_budget: ByteBudget,
        tap: Tap | None = None,
    ) -> None:
        super().__init__(latency, ReceiveWindow(growth_budget, INITIAL_BUDGET), tap)
        self.opened: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        """Result of the channel open; None after `attach`."""
        self._conn = conn
        self._reader, self._writer = transport.reader, transport.writer
        self._round_trip = round_trip
        self._until_sample = 0
        self._local_id = self._remote_id = -1
        self._remote_window = self._remote_max_packet = 0
        self.incoming: list[memoryview] = []
        """Channel data received in this iteration of the event loop; valid until `deliver` returns."""
        self._bulk = self._sent_close = self._freed = False

    def request(self, host: str, port: int) -> None:
        """Send CHANNEL_OPEN for `host:port`. `opened` gets the result.

        Raises:
            asyncssh.ChannelOpenError: The connection is closed.
        """
        max_packet = MAX_SEND_PACKET if self._conn.rekeys_often else MAX_RECEIVE_PACKET
        self._local_id = self._conn.request_channel(self, host, port, self.window.size, max_packet)
        self._reader.opening[self._local_id] = self

    def attach(self, client: socket.socket) -> None:
        """See `ChannelRelay.attach`."""
        self.opened = None
        super().attach(client)

    def fail_open(self, error: Exception) -> None:
        """Make the pending channel open fail with `error`. If the channel opens later, it is closed immediately."""
        if self.opened is not None and not self.opened.done():
            self.opened.set_exception(error)

    # Data from the channel to the client. `PacketReader` calls the methods below.

    def deliver(self) -> None:
        """Send `incoming` to the client. Buffer a copy of the data that the client's socket does not accept."""
        incoming, client = self.incoming, self._client
        now = time.monotonic()
        if self._tap is not None:
            for piece in incoming:
                self._tap.on_response(piece, now)
            if self._tap.finished:
                self._tap = None
        if client is None or self._send_buffer or self._client_unwritable or self.ended.done():
            self._buffer_incoming(0)
            return
        self.last_active = now
        if self._request_time:
            self._record_latency(now)
        try:
            if len(incoming) == 1:
                size = len(incoming[0])
                sent = client.send(incoming[0])
            else:
                size = sum(map(len, incoming))
                sent = client.sendmsg(incoming) if len(incoming) <= _MAX_PIECES else client.send(b"".join(incoming))
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._on_client_unwritable(error)
            self._buffer_incoming(0)
            return
        self.from_backend += sent
        self._consumed(sent, now)
        if sent < size:
            self._buffer_incoming(sent)
        else:
            incoming.clear()

    def _record_latency(self, now: float) -> None:
        """Record the time since the client's last byte, for one response in `_SAMPLE_EVERY`."""
        self.responses += 1
        if self._tap is None or self._tap.tracker is None:
            if self._until_sample == 0:
                self._latency.observe(now - self._request_time)
                self._until_sample = _SAMPLE_EVERY
            self._until_sample -= 1
        self._request_time = 0.0

    def _buffer_incoming(self, sent: int) -> None:
        """Buffer `incoming` without its first `sent` bytes. Drop the data if the client accepts no more data."""
        if self._client_unwritable or self.ended.done():
            self._consumed(sum(map(len, self.incoming)), self.last_active)
        else:
            for piece in self.incoming:
                if sent < len(piece):
                    self._buffer(piece[sent:] if sent else piece)
                sent = max(0, sent - len(piece))
        self.incoming.clear()
        self._update_interest()

    def on_window_adjust(self, count: int) -> None:
        """Add `count` bytes to the window for sending."""
        stalled = self._remote_window == 0
        self._remote_window += count
        if stalled:
            self._update_interest()

    def on_open_confirmed(self, peer: int, window: int, max_packet: int) -> None:
        """Mark the channel as open. If `fail_open` was called before, for example after a timeout, close the channel.

        Raises:
            asyncssh.ProtocolError: The peer's maximum packet size is 0.
        """
        if max_packet == 0:
            raise asyncssh.ProtocolError("a channel with a maximum packet size of 0")
        del self._reader.opening[self._local_id]
        self._remote_id, self._remote_window, self._remote_max_packet = peer, window, min(max_packet, MAX_SEND_PACKET)
        self._reader.channels[self._local_id] = self
        if self.opened is None or self.opened.done():  # `fail_open` was called
            self._send_close()
        else:
            self.opened.set_result(None)

    def on_peer_end(self, *, close: bool) -> None:
        """Handle CHANNEL_CLOSE if `close` is true; otherwise handle CHANNEL_EOF (RFC 4254, section 5.3)."""
        self.window.remaining = 0  # any data after EOF is a protocol violation, like data beyond the window
        if close:
            self._send_close()
            self._free()
        self._on_backend_eof(close=close)

    # asyncssh calls the methods below.

    def log_received_packet(self, *args: Any) -> None:
        """Do nothing: logging would cost more than receiving."""

    log_sent_packet = log_received_packet

    def close(self) -> None:
        """Close the channel. asyncssh calls this before it closes the SSH connection."""
        self._send_close()

    def process_open_confirmation(self, peer: int, window: int, max_packet: int, packet: SSHPacket) -> None:
        """Handle CHANNEL_OPEN_CONFIRMATION."""
        del packet
        self._require_opening()
        self.on_open_confirmed(peer, window, max_packet)

    def process_open_failure(self, code: int, reason: str, lang: str) -> None:
        """Handle CHANNEL_OPEN_FAILURE."""
        self._require_opening()
        self._free()
        self.fail_open(asyncssh.ChannelOpenError(code, reason, lang))

    def _require_opening(self) -> None:
        if self._local_id not in self._reader.opening:
            raise asyncssh.ProtocolError("Channel not being opened")

    def process_connection_close(self, exc: Exception | None) -> None:
        """Handle the loss of the SSH connection."""
        del exc
        self._free()
        self.fail_open(asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "connection lost"))
        self._on_link_lost()

    def process_packet(self, pkttype: int, number: int, packet: SSHPacket) -> bool:
        """Handle a packet that `PacketReader` passed to asyncssh. Return whether the packet type is supported.

        Raises:
            asyncssh.ProtocolError: The peer must not send this packet now.
        """
        del number
        if self._remote_id < 0:
            raise asyncssh.ProtocolError("Channel not open")
        if pkttype == asyncssh_internals.MSG_CHANNEL_DATA:
            data = memoryview(packet.get_string())
            packet.check_end()
            self.window.remaining -= len(data)
            if self.window.remaining < 0:
                raise asyncssh.ProtocolError("more data than the window allows")
            self.incoming.append(data)
            self.deliver()
        elif pkttype == asyncssh_internals.MSG_CHANNEL_WINDOW_ADJUST:
            self.on_window_adjust(packet.get_uint32())
        elif pkttype in (asyncssh_internals.MSG_CHANNEL_EOF, asyncssh_internals.MSG_CHANNEL_CLOSE):
            self.on_peer_end(close=pkttype == asyncssh_internals.MSG_CHANNEL_CLOSE)
        elif pkttype == asyncssh_internals.MSG_CHANNEL_EXTENDED_DATA:
            packet.get_uint32()
            size = len(packet.get_string())  # forwarded channels have no stderr, so drop the data
            self.window.remaining -= size
            if self.window.remaining < 0:
                raise asyncssh.ProtocolError("more data than the window allows")
            self._consumed(size, self.last_active)
        elif pkttype == asyncssh_internals.MSG_CHANNEL_REQUEST:
            packet.get_string()
            if packet.get_boolean() and not self._sent_close:
                self._writer.send_control(asyncssh_internals.MSG_CHANNEL_FAILURE, UInt32(self._remote_id))
        else:
            return False
        return True

    # Data from the client to the channel.

    def _read_client(self) -> None:
        client, writer, window = self._client, self._writer, self._remote_window
        if client is None or self._sent_close or self._channel_unwritable or not window:
            return
        if not writer.may_send:
            writer.enqueue(self)
            self._update_interest()
            return
        limit = min(window, self._remote_max_packet)
        several = (
            self._bulk and window >= MAX_SEND_PACKET * SLOTS and limit == MAX_SEND_PACKET and not writer.contended
        )
        try:
            count = client.recvmsg_into(SLOT_VIEWS)[0] if several else client.recv_into(SLOT_VIEWS[0], limit)
        except BlockingIOError:
            return
        except OSError:
            self._on_client_reset()
            return
        self.last_active = time.monotonic()
        if count == 0:
            self._on_client_eof()
            return
        self._request_time = self.last_active
        self.to_backend += count
        if self._tap is not None:
            self._feed_tap(count)
        self._remote_window = window - count
        if count == window:
            self._update_interest()
        # A full read indicates a bulk transfer, so the next read probably fills several packets.
        self._bulk = count >= limit == MAX_SEND_PACKET
        slot = 0
        while count > MAX_SEND_PACKET:
            writer.send_data(self._remote_id, slot, MAX_SEND_PACKET)
            slot += 1
            count -= MAX_SEND_PACKET
        writer.send_data(self._remote_id, slot, count)

    def _feed_tap(self, count: int) -> None:
        """Pass the `count` bytes that were last read to the tap."""
        tap = self._tap
        for slot in SLOT_VIEWS:
            if count <= 0 or tap is None:
                break
            tap.on_request(slot[: min(count, MAX_SEND_PACKET)], self.last_active)
            count -= MAX_SEND_PACKET

    def _accepts_data(self) -> bool:
        return self._remote_window > 0 and not self._sent_close and not self._writer.is_queued(self)

    def _send_eof(self) -> None:
        self._writer.send_control(asyncssh_internals.MSG_CHANNEL_EOF, UInt32(self._remote_id))

    def _leave_send_queue(self) -> None:
        self._writer.dequeue(self)

    def _consumed(self, count: int, now: float) -> None:
        window = self.window
        window.consumed += count
        # The peer sends no data after EOF, so the channel sends no window adjust.
        if window.consumed >= window.adjust_threshold and not (self._backend_eof or self._sent_close or self._freed):
            grant = window.grant(now, self._round_trip())
            self._writer.send_control(
                asyncssh_internals.MSG_CHANNEL_WINDOW_ADJUST, UInt32(self._remote_id) + UInt32(grant)
            )

    def _send_close(self) -> None:
        if self._remote_id >= 0 and not (self._sent_close or self._freed):
            self._sent_close = True
            self._writer.send_control(asyncssh_internals.MSG_CHANNEL_CLOSE, UInt32(self._remote_id))

    def _free(self) -> None:
        """Free the number of a channel that is closed on both sides or was lost with its connection."""
        if not self._freed:
            self._freed = True
            self._reader.opening.pop(self._local_id, None)
            self._reader.channels.pop(self._local_id, None)
            self._writer.dequeue(self)
            self._conn.free_channel(self._local_id)
