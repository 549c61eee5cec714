"""What arrives on one SSH connection: opened packet by packet, and taken to where it belongs.

Once an AES-GCM cipher is agreed and asyncssh is between packets, channel data goes straight to its relay; anything
else is handed to asyncssh, still sealed.
"""

import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from gateway.relay.mmap_buffer import mmap_buffer
from gateway.ssh.doors import (
    DATA_OVERHEAD,
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_WINDOW_ADJUST,
    PlaneConnection,
)
from gateway.ssh.gcm import BLOCK, COUNTER_AT, MASK, MIN_PADDING, TAG, put_counter

if TYPE_CHECKING:
    from gateway.ssh.plane import PlaneRelay

_RECEIVE = 512 * 1024
_PLAIN_SIZE = _RECEIVE + 64 * 1024
_GREETING = 255

# One turn's scratch space, shared by all connections: nothing stays in it between two events.
_PLAIN = mmap_buffer(_PLAIN_SIZE)
_PLAIN_VIEW = memoryview(_PLAIN)

_read_length = struct.Struct(">I").unpack_from
_read_data_head = struct.Struct(">BBII").unpack_from
_read_adjust = struct.Struct(">BBII").unpack_from
_read_end_head = struct.Struct(">BBI").unpack_from
_read_confirmation = struct.Struct(">BBIIII").unpack_from
_ADJUST_LENGTH, _END_LENGTH, _CONFIRMATION_LENGTH = 10, 6, 18
_ENDS = (MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE)


class Inbox:
    """Receives and opens on one SSH connection.

    Args:
        sock: Connected and non-blocking; the wire's, which closes it.
        conn: asyncssh's side.
        ended: Told that nothing more arrives, with the socket's error if there was one.
    """

    def __init__(self, sock: socket.socket, conn: PlaneConnection, ended: Callable[[Exception | None], None]) -> None:
        self.relays: dict[int, PlaneRelay] = {}
        """By our channel number, those that are open."""
        self.opening: dict[int, PlaneRelay] = {}
        """Those that are being opened."""
        self.last_received = time.monotonic()
        self.greeting = b""
        """The first that the peer said: where it refuses us, perhaps why."""
        self._sock = sock
        self._conn = conn
        self._ended = ended
        self._closed = False
        self._plane = False
        self._buffer = mmap_buffer(_RECEIVE)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    @property
    def waiting(self) -> int:
        """Bytes that arrived and that nobody has taken."""
        return self._end - self._start

    @property
    def full(self) -> bool:
        """Whether nothing more can be received before something is taken."""
        return self._end - self._start == _RECEIVE

    def is_closed(self) -> bool:
        """Whether the socket is closed, perhaps by what a packet led to."""
        return self._closed

    def close(self) -> None:
        """The socket is closed: nothing arrives any more."""
        self._closed = True

    def receive(self) -> None:
        """Take what the socket has, and pass on what is whole."""
        if self._start:
            size = self._end - self._start
            self._view[:size] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, size
        if self._end == _RECEIVE:
            return
        try:
            count = self._sock.recv_into(self._view[self._end :])
        except BlockingIOError:
            return
        except OSError as error:
            self._ended(error)
            return
        if count == 0:
            self._ended(None)
            return
        self.last_received = time.monotonic()
        if not self.greeting:
            self.greeting = bytes(self._view[self._end : self._end + min(count, _GREETING)])
        self._end += count
        self.resume()
        conn = self._conn
        conn.until_rekey -= count
        if conn.until_rekey <= 0:
            conn.rekey()

    def resume(self) -> None:
        """Pass on what is whole of what is buffered."""
        conn = self._conn
        if self._closed or conn.dead:
            return
        if self._plane and conn.opens is not None:
            if conn.between_packets:
                self._parse()
        else:
            self._hand_over(self._end)
            self._plane = conn.ready_for_plane

    # The inside.

    def _hand_over(self, stop: int) -> None:
        """Give asyncssh what is buffered up to `stop`."""
        data = bytes(self._view[self._start : stop])
        self._start = stop
        if stop == self._end:
            self._start = self._end = 0
        if data:
            self._conn.data_received(data)

    def _parse(self) -> None:
        """Open whole packets one after the other, and take each to where it belongs."""
        conn, relays, buffer, view = self._conn, self.relays, self._buffer, self._view
        touched: list[PlaneRelay] = []
        taken = used = 0
        while True:
            start, end = self._start, self._end
            if end - start < 4 or self.is_closed():
                break
            length = _read_length(buffer, start)[0]
            stop = start + 4 + length + TAG
            if length > conn.max_packet:
                self._leave(touched, taken)
                conn.violated(f"Max packet size exceeded: {length} bytes")
                return
            if stop > end:
                break
            cipher = conn.opens
            if cipher is None:
                self._leave(touched, taken)
                self._hand_over(end)
                return
            if used + length > _PLAIN_SIZE:
                self._deliver(touched)
                used = 0
            try:
                cipher.open_into(
                    cipher.nonce,
                    view[start + 4 : stop],
                    view[start : start + 4],
                    _PLAIN_VIEW[used : used + length],
                )
            except InvalidTag:
                kind = -1
            else:
                kind = _PLAIN[used + 1] if length >= BLOCK else -1
            if kind == MSG_CHANNEL_DATA:
                padding, _, number, size = _read_data_head(_PLAIN, used)
                relay = relays.get(number)
                if relay is not None and DATA_OVERHEAD + size + padding == length and padding >= MIN_PADDING:
                    cipher.counter = counter = (cipher.counter + 1) & MASK
                    put_counter(cipher.nonce, COUNTER_AT, counter)
                    taken += 1
                    self._start = stop
                    window = relay.window
                    window.granted -= size
                    if window.granted < 0:
                        self._leave(touched, taken)
                        conn.violated(f"channel {number}: more data than its window allows")
                        return
                    fresh = relay.fresh
                    if not fresh:
                        touched.append(relay)
                    begin = used + DATA_OVERHEAD
                    fresh.append(_PLAIN_VIEW[begin : begin + size])
                    used += length
                    continue
            elif kind == MSG_CHANNEL_WINDOW_ADJUST:
                padding, _, number, size = _read_adjust(_PLAIN, used)
                relay = relays.get(number)
                if relay is not None and _ADJUST_LENGTH + padding == length:
                    cipher.advance()
                    taken += 1
                    self._start = stop
                    relay.adjust(size)
                    continue
            elif kind in _ENDS:
                padding, _, number = _read_end_head(_PLAIN, used)
                relay = relays.get(number)
                if relay is not None and _END_LENGTH + padding == length:
                    cipher.advance()
                    taken += 1
                    self._start = stop
                    if relay.fresh:
                        relay.deliver()
                    relay.ended_by_peer(close=kind == MSG_CHANNEL_CLOSE)
                    continue
            elif kind == MSG_CHANNEL_OPEN_CONFIRMATION:
                padding, _, number, peer, window, size = _read_confirmation(_PLAIN, used)
                relay = self.opening.get(number)
                if relay is not None and _CONFIRMATION_LENGTH + padding == length and size:
                    cipher.advance()
                    taken += 1
                    self._start = stop
                    relay.confirmed(peer, window, size)
                    continue
            self._deliver(touched)
            used = 0
            conn.received(taken)
            taken = 0
            self._hand_over(stop)
            if self._closed or conn.dead or not conn.between_packets:
                return
        self._leave(touched, taken)
        if self._start == self._end:
            self._start = self._end = 0

    def _leave(self, touched: "list[PlaneRelay]", taken: int) -> None:
        self._deliver(touched)
        self._conn.received(taken)

    def _deliver(self, touched: "list[PlaneRelay]") -> None:
        for relay in touched:
            if relay.fresh:
                relay.deliver()
        touched.clear()
