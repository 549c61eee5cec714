"""What leaves by one SSH connection: sealed packet by packet, many packets per system call.

Packets of asyncssh and of the plane go into one batch, in the order in which they were sealed. The batch is offered
to the socket at the end of the turn, or when it is full; what the socket does not take waits. Meanwhile the relays
that want to send wait in a queue: each gets one turn before another gets its second.
"""

import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Protocol

from gateway.contracts import Ending
from gateway.relay.pages import pages
from gateway.relay.readiness import readiness
from gateway.relay.send_buffer import SendBuffer
from gateway.ssh.asyncssh_internals import DATA_OVERHEAD, MSG_CHANNEL_DATA, ClientConnection
from gateway.ssh.gcm import BLOCK, COUNTER_AT, MASK, MIN_PADDING, TAG, put_counter

log = logging.getLogger(__name__)

MAX_SEND_PACKET = 32 * 1024
"""The most data that OpenSSH takes in one packet, and so what we send in one."""
SLOTS = 4
"""Packets read from one client in a turn; one packet where others wait on a slow path."""
DATA_HEADER = 14
"""Bytes before the data: length, padding length, type, channel, data length (RFC 4253, 6; RFC 4254, 5.2)."""
_CONTROL_OVERHEAD = 2
"""What any packet holds besides its payload: padding length, type."""
_SLOT_SIZE = DATA_HEADER + MAX_SEND_PACKET + 2 * TAG
_BATCH_SIZE = 8 * (MAX_SEND_PACKET + 64)
_SLOW_BATCH_SIZE = 2 * (MAX_SEND_PACKET + 64)
_SLOW_DRAIN = 0.02
"""Seconds: a backlog that takes longer to leave is on a slow path, where turns and backlogs are kept short."""
MAX_CONTROL_BACKLOG = 1024 * 1024
"""Bytes that wait for the socket beyond which nothing is received: a peer that asks and does not read its answers."""

# One turn's scratch space, shared by all connections: nothing stays in it between two events.
_SCRATCH = pages(_SLOT_SIZE * SLOTS)
_SCRATCH_VIEW = memoryview(_SCRATCH)
SLOT_VIEWS = [
    _SCRATCH_VIEW[at * _SLOT_SIZE + DATA_HEADER : at * _SLOT_SIZE + DATA_HEADER + MAX_SEND_PACKET]
    for at in range(SLOTS)
]
"""Where a relay reads what it wants sent; `PacketWriter.send_data` seals it from there."""
_PADDING = os.urandom(2 * BLOCK)
_pack_data_header = struct.Struct(">IBBII").pack_into


class Sender(Protocol):
    """A relay that has channel data to send."""

    def resume_sending(self) -> None:
        """Send one turn's data now."""

    def abort(self, ending: Ending) -> None:
        """Reset both ends now."""


class PacketWriter:
    """Seals, batches and sends on one SSH connection.

    Args:
        sock: Connected and non-blocking; the packet_transport's, which closes it.
        conn: asyncssh's side.
        on_blocked_changed: Told when `blocked` has on_blocked_changed.
        on_error: Told of an error of the socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        conn: ClientConnection,
        on_blocked_changed: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._queue: dict[Sender, None] = {}
        """Relays that have something to send and may not, in order of arrival."""
        self.may_send = False
        """Whether channel data may be sent now; see `update_may_send`."""
        self.blocked = False
        """Whether something waits for the socket to take it."""
        self._sock = sock
        self._conn = conn
        self._on_blocked_changed = on_blocked_changed
        self._on_error = on_error
        self._closed = False
        self._batch_view = memoryview(pages(_BATCH_SIZE))
        self._batched = 0
        self._batch_limit = _BATCH_SIZE
        self._backlog = SendBuffer()
        """What the socket has not taken; `blocked` while there is some."""
        self._blocked_at = 0.0
        self._flush_scheduled = False
        self._packets_sent = self._bytes_sent = 0
        self._ready = readiness()

    @property
    def contended(self) -> bool:
        """Whether turns are to be short: others wait, and the path is slow."""
        return self._batch_limit == _SLOW_BATCH_SIZE and bool(self._queue)

    @property
    def congested(self) -> bool:
        """Whether so much waits for the peer that nothing more should be received from it, which adds to that."""
        return self.blocked and len(self._backlog) > MAX_CONTROL_BACKLOG

    def enqueue(self, sender: Sender) -> None:
        """Queue `sender` for its next turn; one that waits already keeps its place."""
        self._queue.setdefault(sender)

    def is_queued(self, sender: Sender) -> bool:
        """Whether `sender` is in the queue."""
        return sender in self._queue

    def dequeue(self, sender: Sender) -> None:
        """Take `sender` out of the queue; no error when it is not in it."""
        self._queue.pop(sender, None)

    def update_may_send(self) -> None:
        """Decide whether channel data may be sent: not into a full socket, nor while keys are exchanged."""
        self.may_send = not (self.blocked or self._closed or self._conn.transport_closed) and self._conn.may_send_data

    def write(self, data: Any) -> None:
        """Take a sealed packet, or the plain text of the first ones."""
        size = len(data)
        if self._closed:
            return
        if self._batched + size > self._batch_limit:
            self.flush()
        if size > _BATCH_SIZE or self.blocked:
            self._append_backlog(data)
            return
        self._batch_view[self._batched : self._batched + size] = data
        self._batched += size
        self._schedule_flush()

    def send_control(self, kind: int, payload: bytes) -> None:
        """Seal a short packet of the channel protocol; asyncssh sends it, or keeps it, where the plane may not."""
        if self._closed or self._conn.transport_closed:
            return
        cipher = self._conn.send_cipher
        if cipher is None or not self._conn.may_send_data:
            self._conn.send_packet(kind, payload)
            return
        padding = -(_CONTROL_OVERHEAD + len(payload)) % BLOCK
        if padding < MIN_PADDING:
            padding += BLOCK
        length = _CONTROL_OVERHEAD + len(payload) + padding
        if self._batched + 4 + length + TAG > self._batch_limit:
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
        self._count_sealed(out, length)

    def send_data(self, channel: int, slot: int, size: int) -> None:
        """Seal `size` bytes of `SLOT_VIEWS[slot]` as data for the peer's `channel`."""
        cipher = self._conn.send_cipher
        if cipher is None:  # the cipher on_blocked_changed with the last key exchange: asyncssh's way works with any
            self._conn.send_packet(
                MSG_CHANNEL_DATA, channel.to_bytes(4, "big"), size.to_bytes(4, "big"), bytes(SLOT_VIEWS[slot][:size])
            )
            return
        padding = -(DATA_OVERHEAD + size) % BLOCK
        if padding < MIN_PADDING:
            padding += BLOCK
        length = DATA_OVERHEAD + size + padding
        if self._batched + length + 4 + TAG > self._batch_limit:
            self.flush()
        at = slot * _SLOT_SIZE
        _pack_data_header(_SCRATCH, at, length, padding, MSG_CHANNEL_DATA, channel, size)
        end = at + DATA_HEADER + size
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
        self._count_sealed(out, length)

    def flush(self) -> None:
        """Offer the batch to the socket; keep what it does not take."""
        size, self._batched = self._batched, 0
        if not size or self._closed:
            return
        if self.blocked:
            self._backlog.append(self._batch_view[:size])
            return
        try:
            sent = self._sock.send(self._batch_view[:size])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._on_error(error)
            return
        if sent < size:
            self._append_backlog(self._batch_view[sent:size])

    def drain(self) -> None:
        """The socket takes again: give it what waits."""
        try:
            self._backlog.send_to(self._sock)
        except OSError as error:
            self._on_error(error)
            return
        if self._backlog:
            return
        self.blocked = False
        self._batch_limit = _SLOW_BATCH_SIZE if time.monotonic() - self._blocked_at > _SLOW_DRAIN else _BATCH_SIZE
        self.update_may_send()
        self._on_blocked_changed()
        self._serve_queue()

    def schedule_queue(self) -> None:
        """Serve the relays that wait, at the end of this turn: keys are exchanged."""
        self._ready.at_turn_end(self._serve_queue)

    def close(self) -> None:
        """The socket is closed: nothing leaves any more."""
        self._closed = True
        self._backlog = SendBuffer()
        self._batched = 0
        self._queue.clear()
        self.update_may_send()

    # The inside.

    def _count_sealed(self, out: int, length: int) -> None:
        self._batched = out + 4 + length + TAG
        self._packets_sent += 1
        self._bytes_sent += length
        if not self._flush_scheduled:  # as _schedule_flush, without its call
            self._flush_scheduled = True
            self._ready.at_turn_end(self._end_turn)

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._ready.at_turn_end(self._end_turn)

    def _end_turn(self) -> None:
        self._flush_scheduled = False
        if self._packets_sent and not self._closed:
            packets, self._packets_sent = self._packets_sent, 0
            size, self._bytes_sent = self._bytes_sent, 0
            # Only here: between the request for new keys and the keys themselves no data may be sent.
            self._conn.count_sent(packets, size)
        self.flush()

    def _append_backlog(self, data: bytes | memoryview) -> None:
        if self._batched:  # the socket is full in the middle of a relay's turn
            self._backlog.append(self._batch_view[: self._batched])
            self._batched = 0
        self._backlog.append(data)
        if not self.blocked:
            self.blocked = True
            self._blocked_at = time.monotonic()
            self.update_may_send()
            self._on_blocked_changed()

    def _serve_queue(self) -> None:
        """Give each relay that waits one turn, in order of arrival, for as long as the socket takes it."""
        while self._queue and self.may_send:
            sender = next(iter(self._queue))
            del self._queue[sender]
            try:
                sender.resume_sending()
            except Exception:
                log.exception("a relay on_error; its client is reset")
                sender.abort(Ending.ABORTED)
