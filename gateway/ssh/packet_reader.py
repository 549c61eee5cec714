"""Receives packets on one SSH connection, and dispatches each to its channel or to asyncssh.

Once AES-GCM is negotiated and asyncssh has processed all data that it received, channel packets go directly to their
channel. Every other packet goes to asyncssh, still encrypted.
"""

import socket
import struct
import time
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InvalidTag

from gateway.relay.mmap_buffer import mmap_buffer
from gateway.ssh.aes_gcm import BLOCK, COUNTER_AT, MASK, MIN_PADDING, TAG, put_counter
from gateway.ssh.asyncssh_internals import (
    DATA_OVERHEAD,
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_WINDOW_ADJUST,
)
from gateway.ssh.client_connection import ClientConnection
from gateway.ssh.flow_control import ReceiveWindow

_BUFFER_SIZE = 512 * 1024
_PLAIN_SIZE = _BUFFER_SIZE + 64 * 1024
_MAX_GREETING = 255

# All connections share this scratch space for decrypted packets. No data stays in it after an event is handled.
_PLAIN = mmap_buffer(_PLAIN_SIZE)
_PLAIN_VIEW = memoryview(_PLAIN)

_unpack_length = struct.Struct(">I").unpack_from
_unpack_data = struct.Struct(">BBII").unpack_from
_unpack_adjust = struct.Struct(">BBII").unpack_from
_unpack_end = struct.Struct(">BBI").unpack_from
_unpack_confirmation = struct.Struct(">BBIIII").unpack_from
_ADJUST_LENGTH, _END_LENGTH, _CONFIRMATION_LENGTH = 10, 6, 18
_END_TYPES = (MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE)


class PacketReceiver(Protocol):
    """A channel to which `PacketReader` passes packets."""

    window: ReceiveWindow
    """The receive window."""
    incoming: list[memoryview]
    """Channel data received in this iteration of the event loop; valid until `deliver` returns."""

    def deliver(self) -> None:
        """Consume the data in `incoming`."""

    def on_window_adjust(self, count: int) -> None:
        """Add `count` bytes to the window for sending."""

    def on_peer_end(self, *, close: bool) -> None:
        """Handle CHANNEL_CLOSE if `close` is true; otherwise handle CHANNEL_EOF."""

    def on_open_confirmed(self, peer: int, window: int, max_packet: int) -> None:
        """Handle CHANNEL_OPEN_CONFIRMATION."""

    def fail_open(self, error: Exception) -> None:
        """Make the pending channel open fail with `error`."""


class PacketReader:
    """Receives and decrypts the packets of one SSH connection, and dispatches them.

    Args:
        sock: A connected, non-blocking socket, owned by `PacketTransport`.
        conn: The asyncssh connection.
        on_end: Called at the end of the stream, with the socket's error if there is one.
    """

    def __init__(
        self, sock: socket.socket, conn: ClientConnection, on_end: Callable[[Exception | None], None]
    ) -> None:
        self.channels: dict[int, PacketReceiver] = {}
        """Open channels, by their local channel number."""
        self.opening: dict[int, PacketReceiver] = {}
        """Channels for which CHANNEL_OPEN has no reply yet, by their local channel number."""
        self.last_received = time.monotonic()
        """The monotonic time of the last received data, in seconds."""
        self.greeting = b""
        """The first bytes that the peer sent. A server that refuses the connection can send the reason in them."""
        self._sock = sock
        self._conn = conn
        self._on_end = on_end
        self._closed = False
        self._native = False
        """Whether this reader parses packets. If not, asyncssh receives all data."""
        self._buffer = mmap_buffer(_BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    @property
    def buffered(self) -> int:
        """Number of bytes that were received and not yet dispatched."""
        return self._end - self._start

    @property
    def full(self) -> bool:
        """Whether the buffer is full. If it is, no data can be received."""
        return self._end - self._start == _BUFFER_SIZE

    def is_closed(self) -> bool:
        """Return whether the socket is closed. Handling a packet can close the socket."""
        return self._closed

    def close(self) -> None:
        """Stop receiving. Called when the socket is closed."""
        self._closed = True

    def take_buffered(self) -> bytes:
        """Remove and return the bytes that were received and not dispatched."""
        data = bytes(self._view[self._start : self._end])
        self._start = self._end = 0
        return data

    def receive(self) -> None:
        """Read from the socket once, and dispatch complete packets. Starts a key exchange when it is due."""
        if self._start:
            size = self._end - self._start
            self._view[:size] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, size
        if self._end == _BUFFER_SIZE:
            return
        try:
            count = self._sock.recv_into(self._view[self._end :])
        except BlockingIOError:
            return
        except OSError as error:
            self._on_end(error)
            return
        if count == 0:
            self._on_end(None)
            return
        self.last_received = time.monotonic()
        if not self.greeting:
            self.greeting = bytes(self._view[self._end : self._end + min(count, _MAX_GREETING)])
        self._end += count
        self.resume()
        conn = self._conn
        conn.bytes_until_rekey -= count
        if conn.bytes_until_rekey <= 0:
            conn.rekey()

    def resume(self) -> None:
        """Dispatch the complete packets in the buffer."""
        conn = self._conn
        if self._closed or conn.transport_closed:
            return
        if self._native and conn.receive_cipher is not None:
            if conn.between_packets:
                self._parse()
        else:
            self._feed_asyncssh(self._end)
            self._native = conn.native_ready

    def _feed_asyncssh(self, stop: int) -> None:
        """Pass the buffered data up to `stop` to asyncssh."""
        data = bytes(self._view[self._start : stop])
        self._start = stop
        if stop == self._end:
            self._start = self._end = 0
        if data:
            self._conn.data_received(data)

    def _parse(self) -> None:
        """Decrypt and dispatch complete packets. Stop at a packet that asyncssh must process before the next one."""
        conn, channels, buffer, view = self._conn, self.channels, self._buffer, self._view
        with_data: list[PacketReceiver] = []
        packets = used = 0
        while True:
            start, end = self._start, self._end
            if end - start < 4 or self.is_closed():
                break
            length = _unpack_length(buffer, start)[0]
            stop = start + 4 + length + TAG
            if length > conn.max_packet_length:
                self._finish_batch(with_data, packets)
                conn.disconnect_on_violation(f"Max packet size exceeded: {length} bytes")
                return
            if stop > end:
                break
            cipher = conn.receive_cipher
            if cipher is None:
                self._finish_batch(with_data, packets)
                self._feed_asyncssh(end)
                return
            if used + length > _PLAIN_SIZE:
                self._deliver(with_data)
                used = 0
            try:
                cipher.open_into(
                    cipher.nonce,
                    view[start + 4 : stop],
                    view[start : start + 4],
                    _PLAIN_VIEW[used : used + length],
                )
            except InvalidTag:
                msg_type = -1
            else:
                msg_type = _PLAIN[used + 1] if length >= BLOCK else -1
            if msg_type == MSG_CHANNEL_DATA:
                padding, _, number, size = _unpack_data(_PLAIN, used)
                channel = channels.get(number)
                if channel is not None and DATA_OVERHEAD + size + padding == length and padding >= MIN_PADDING:
                    cipher.counter = counter = (cipher.counter + 1) & MASK
                    put_counter(cipher.nonce, COUNTER_AT, counter)
                    packets += 1
                    self._start = stop
                    window = channel.window
                    window.remaining -= size
                    if window.remaining < 0:
                        self._finish_batch(with_data, packets)
                        conn.disconnect_on_violation(f"channel {number}: more data than its window allows")
                        return
                    incoming = channel.incoming
                    if not incoming:
                        with_data.append(channel)
                    begin = used + DATA_OVERHEAD
                    incoming.append(_PLAIN_VIEW[begin : begin + size])
                    used += length
                    continue
            elif msg_type == MSG_CHANNEL_WINDOW_ADJUST:
                padding, _, number, size = _unpack_adjust(_PLAIN, used)
                channel = channels.get(number)
                if channel is not None and _ADJUST_LENGTH + padding == length:
                    cipher.advance()
                    packets += 1
                    self._start = stop
                    channel.on_window_adjust(size)
                    continue
            elif msg_type in _END_TYPES:
                padding, _, number = _unpack_end(_PLAIN, used)
                channel = channels.get(number)
                if channel is not None and _END_LENGTH + padding == length:
                    cipher.advance()
                    packets += 1
                    self._start = stop
                    if channel.incoming:
                        channel.deliver()
                    channel.on_peer_end(close=msg_type == MSG_CHANNEL_CLOSE)
                    continue
            elif msg_type == MSG_CHANNEL_OPEN_CONFIRMATION:
                padding, _, number, peer, window, size = _unpack_confirmation(_PLAIN, used)
                channel = self.opening.get(number)
                if channel is not None and _CONFIRMATION_LENGTH + padding == length and size:
                    cipher.advance()
                    packets += 1
                    self._start = stop
                    channel.on_open_confirmed(peer, window, size)
                    continue
            self._deliver(with_data)
            used = 0
            conn.count_received(packets)
            packets = 0
            self._feed_asyncssh(stop)
            if self._closed or conn.transport_closed or not conn.between_packets:
                return
        self._finish_batch(with_data, packets)
        if self._start == self._end:
            self._start = self._end = 0

    def _finish_batch(self, with_data: list[PacketReceiver], packets: int) -> None:
        """Deliver pending data, and add `packets` that bypassed asyncssh to the sequence number."""
        self._deliver(with_data)
        self._conn.count_received(packets)

    def _deliver(self, with_data: list[PacketReceiver]) -> None:
        """Let channels deliver their incoming data, and clear the list."""
        for channel in with_data:
            if channel.incoming:
                channel.deliver()
        with_data.clear()
