"""The socket under one SSH connection: opens what arrives, seals what leaves, many packets per system call.

To asyncssh it is a transport. Once an AES-GCM cipher is agreed and asyncssh is between packets, arriving channel
data goes straight to its relay; anything else is handed to asyncssh, still sealed.
"""

import asyncio
import logging
import os
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag

from gateway.relay.pages import pages
from gateway.relay.readiness import READ, WRITE, readiness
from gateway.ssh.doors import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_WINDOW_ADJUST,
    PlaneConnection,
)
from gateway.ssh.gcm import COUNTER_AT, MASK, TAG, put_counter

if TYPE_CHECKING:
    from gateway.ssh.plane import PlaneRelay

log = logging.getLogger(__name__)

PACKET = 32 * 1024
"""The most data that OpenSSH takes in one packet, and so what we send in one."""
SLOTS = 4
"""Packets read from one client before another's turn: a query never waits behind more of a bulk transfer."""
HEAD = 14
"""Bytes before the data: length, padding length, type, channel, data length (RFC 4253, 6; RFC 4254, 5.2)."""
_SLOT = HEAD + PACKET + 2 * TAG
_BATCH = 8 * (PACKET + 64)
_RECEIVE = 512 * 1024
_PLAIN_SIZE = _RECEIVE + 64 * 1024
_BLOCK, _MIN_PADDING = 16, 4
_GREETING = 255

# One turn's scratch space, shared by all wires: nothing stays in it between two events.
_SCRATCH = pages(_SLOT * SLOTS)
_SCRATCH_VIEW = memoryview(_SCRATCH)
SLOT_VIEWS = [_SCRATCH_VIEW[at * _SLOT + HEAD : at * _SLOT + HEAD + PACKET] for at in range(SLOTS)]
"""Where a relay reads what it wants sent; `Wire.send_data` seals it from there."""
_PLAIN = pages(_PLAIN_SIZE)
_PLAIN_VIEW = memoryview(_PLAIN)
_PADDING = os.urandom(2 * _BLOCK)

_read_length = struct.Struct(">I").unpack_from
_read_data_head = struct.Struct(">BBII").unpack_from
_read_adjust = struct.Struct(">BBII").unpack_from
_read_end_head = struct.Struct(">BBI").unpack_from
_read_confirmation = struct.Struct(">BBIIII").unpack_from
_write_head = struct.Struct(">IBBII").pack_into
_DATA_OVERHEAD = 10
"""What a data packet holds besides its data: padding length, type, channel, data length."""
_CONTROL_OVERHEAD = 2
"""What any packet holds besides its payload: padding length, type."""
_ADJUST_LENGTH, _END_LENGTH, _CONFIRMATION_LENGTH = 10, 6, 18
_ENDS = (MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE)


class Wire(asyncio.Transport):
    """Owns the socket of one SSH connection.

    Args:
        sock: Connected and non-blocking.
        conn: asyncssh's side.
    """

    def __init__(self, sock: socket.socket, conn: PlaneConnection) -> None:
        super().__init__()
        self.relays: dict[int, PlaneRelay] = {}
        """By our channel number, those that are open."""
        self.opening: dict[int, PlaneRelay] = {}
        """Those that are being opened."""
        self.paused: set[PlaneRelay] = set()
        """Relays that have something to send and may not: told when they may."""
        self.last_received = time.monotonic()
        self.greeting = b""
        """The first that the peer said: where it refuses us, perhaps why."""
        self.may_send = False
        """Whether channel data may be sent now; see `judge`."""
        self._blocked = False
        self._sock = sock
        self._conn = conn
        self._fd = sock.fileno()
        self._closed = False
        self._plane = False
        self._buffer = pages(_RECEIVE)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._batch_view = memoryview(pages(_BATCH))
        self._batched = 0
        self._backlog: deque[memoryview] = deque()
        self._due = False
        self._packets_sent = self._bytes_sent = 0
        self._loop = asyncio.get_running_loop()
        self._ready = readiness()
        self._mask = READ
        self._ready.add(self._fd, self._on_event, READ)

    # What asyncssh calls.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The socket and its addresses."""
        if name == "socket":
            return self._sock
        try:
            if name == "sockname":
                return self._sock.getsockname() or default
            if name == "peername":
                return self._sock.getpeername() or default
        except OSError:
            return default
        return default

    def is_closing(self) -> bool:
        """Whether the socket is closed."""
        return self._closed

    def write(self, data: Any) -> None:
        """Take a sealed packet, or the plain text of the first ones."""
        size = len(data)
        if self._closed:
            return
        if self._batched + size > _BATCH:
            self.flush()
        if size > _BATCH or self._backlog:
            self._keep(memoryview(bytes(data)))
            return
        self._batch_view[self._batched : self._batched + size] = data
        self._batched += size
        self._flush_due()

    def abort(self) -> None:
        """Close the socket, once what is batched has been offered to it."""
        if self._closed:
            return
        self.flush()
        self._drop(None)

    close = abort

    @property
    def kex_done(self) -> bool:
        """Whether no key exchange is under way."""
        return self._conn.may_send_data

    # What relays call.

    def judge(self) -> None:
        """Tell anew whether channel data may be sent: not into a full socket, nor while keys are exchanged."""
        self.may_send = not (self._blocked or self._closed) and self._conn.may_send_data

    def send_control(self, kind: int, payload: bytes) -> None:
        """Seal a short packet of the channel protocol; asyncssh sends it, or keeps it, where the plane may not."""
        cipher = self._conn.seals
        if cipher is None or not self._conn.may_send_data:
            self._conn.send_packet(kind, payload)
            return
        padding = -(_CONTROL_OVERHEAD + len(payload)) % _BLOCK
        if padding < _MIN_PADDING:
            padding += _BLOCK
        length = _CONTROL_OVERHEAD + len(payload) + padding
        if self._batched + 4 + length + TAG > _BATCH:
            self.flush()
        head = length.to_bytes(4, "big")
        out = self._batched
        batch = self._batch_view
        batch[out : out + 4] = head
        cipher.seal_into(
            cipher.nonce,
            b"%c%c%b%b" % (padding, kind, payload, _PADDING[:padding]),
            head,
            batch[out + 4 : out + 4 + length + TAG],
        )
        cipher.advance()
        self._note_sealed(out, length)

    def send_data(self, channel: int, slot: int, size: int) -> None:
        """Seal `size` bytes of `SLOT_VIEWS[slot]` as data for the peer's `channel`."""
        cipher = self._conn.seals
        if cipher is None:  # the cipher changed with the last key exchange: asyncssh's way works with any
            self._conn.send_packet(
                MSG_CHANNEL_DATA, channel.to_bytes(4, "big"), size.to_bytes(4, "big"), bytes(SLOT_VIEWS[slot][:size])
            )
            return
        padding = -(_DATA_OVERHEAD + size) % _BLOCK
        if padding < _MIN_PADDING:
            padding += _BLOCK
        length = _DATA_OVERHEAD + size + padding
        if self._batched + length + 4 + TAG > _BATCH:
            self.flush()
        at = slot * _SLOT
        _write_head(_SCRATCH, at, length, padding, MSG_CHANNEL_DATA, channel, size)
        end = at + HEAD + size
        _SCRATCH_VIEW[end : end + padding] = _PADDING[:padding]
        out = self._batched
        batch = self._batch_view
        batch[out : out + 4] = _SCRATCH_VIEW[at : at + 4]
        cipher.seal_into(
            cipher.nonce,
            _SCRATCH_VIEW[at + 4 : at + 4 + length],
            _SCRATCH_VIEW[at : at + 4],
            batch[out + 4 : out + 4 + length + TAG],
        )
        cipher.counter = counter = (cipher.counter + 1) & MASK
        put_counter(cipher.nonce, COUNTER_AT, counter)
        self._note_sealed(out, length)

    def _note_sealed(self, out: int, length: int) -> None:
        self._batched = out + 4 + length + TAG
        self._packets_sent += 1
        self._bytes_sent += length
        if not self._due:
            self._due = True
            self._ready.at_turn_end(self._end_turn)

    def flush(self) -> None:
        """Offer the batch to the socket; keep what it does not take."""
        size, self._batched = self._batched, 0
        if not size or self._closed:
            return
        if self._backlog:
            self._backlog.append(memoryview(bytes(self._batch_view[:size])))
            return
        try:
            sent = self._sock.send(self._batch_view[:size])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._drop(error)
            return
        if sent < size:
            self._keep(memoryview(bytes(self._batch_view[sent:size])))

    def resume_soon(self) -> None:
        """Asyncssh finished a packet that it had to wait for: go on with what came after it."""
        if self._end > self._start:
            self._loop.call_soon(self._resume_late)

    def unpause_soon(self) -> None:
        """Channel data may be sent again."""
        self._loop.call_soon(self._unpause)

    # The inside.

    def _resume_late(self) -> None:
        self._resume()
        self._update()

    def _flush_due(self) -> None:
        if not self._due:
            self._due = True
            self._ready.at_turn_end(self._end_turn)

    def _end_turn(self) -> None:
        self._due = False
        if self._packets_sent and not self._closed:
            packets, self._packets_sent = self._packets_sent, 0
            size, self._bytes_sent = self._bytes_sent, 0
            # Only here: between the request for new keys and the keys themselves no data may be sent.
            self._conn.sent(packets, size)
        self.flush()

    def _grow(self) -> None:
        """The socket is full in the middle of a relay's turn: move what is batched out of the way."""
        if self._batched:
            self._backlog.append(memoryview(bytes(self._batch_view[: self._batched])))
            self._batched = 0

    def _keep(self, data: memoryview) -> None:
        self._grow()
        self._backlog.append(data)
        if not self._blocked:
            self._blocked = True
            self.judge()
            self._update()

    def _update(self) -> None:
        # A buffer that is full and that nobody takes from must not make epoll report the socket without end.
        mask = (READ if self._room else 0) | (WRITE if self._blocked else 0)
        if mask != self._mask and not self._closed:
            self._mask = mask
            self._ready.modify(self._fd, mask)

    @property
    def _room(self) -> int:
        return _RECEIVE - (self._end - self._start)

    def _on_event(self, event: int) -> None:
        try:
            if event & WRITE and self._blocked:
                self._drain()
            if event & ~WRITE and not self._closed:
                self._receive()
        except Exception as error:
            log.exception("the data plane failed; its SSH connection is closed")
            self._drop(error)

    def _drain(self) -> None:
        try:
            while self._backlog:
                piece = self._backlog[0]
                sent = self._sock.send(piece)
                if sent < len(piece):
                    self._backlog[0] = piece[sent:]
                    return
                self._backlog.popleft()
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(error)
            return
        self._blocked = False
        self.judge()
        self._update()
        self._unpause()

    def _unpause(self) -> None:
        if self.may_send:
            paused, self.paused = self.paused, set()
            for relay in paused:
                relay.unpause()

    def _receive(self) -> None:
        if self._start:
            size = self._end - self._start
            self._view[:size] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, size
        if self._end == _RECEIVE:
            self._update()
            return
        try:
            count = self._sock.recv_into(self._view[self._end :])
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(error)
            return
        if count == 0:
            self._drop(None)
            return
        self.last_received = time.monotonic()
        if not self.greeting:
            self.greeting = bytes(self._view[self._end : self._end + min(count, _GREETING)])
        self._end += count
        self._resume()
        self._update()

    def _resume(self) -> None:
        conn = self._conn
        if self._closed or conn.dead:
            return
        if self._plane and conn.opens is not None:
            if conn.between_packets:
                self._parse()
        else:
            self._hand_over(self._end)
            self._plane = conn.ready_for_plane

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
            if end - start < 4 or self.is_closing():
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
                kind = _PLAIN[used + 1] if length >= _BLOCK else -1
            if kind == MSG_CHANNEL_DATA:
                padding, _, number, size = _read_data_head(_PLAIN, used)
                relay = relays.get(number)
                if relay is not None and _DATA_OVERHEAD + size + padding == length and padding >= _MIN_PADDING:
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
                    begin = used + _DATA_OVERHEAD
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

    def _drop(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self.judge()
        self._ready.remove(self._fd)
        self._sock.close()
        self._backlog.clear()
        self._batched = 0
        self._conn.connection_lost(error)
