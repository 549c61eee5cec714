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

from gateway.contracts import CloseReason
from gateway.relay.mmap_buffer import mmap_buffer
from gateway.relay.poller import poller
from gateway.relay.send_buffer import SendBuffer
from gateway.ssh.doors import DATA_OVERHEAD, MSG_CHANNEL_DATA, PlaneConnection
from gateway.ssh.gcm import BLOCK, COUNTER_AT, MASK, MIN_PADDING, TAG, put_counter

log = logging.getLogger(__name__)

PACKET = 32 * 1024
"""The most data that OpenSSH takes in one packet, and so what we send in one."""
SLOTS = 4
"""Packets read from one client in a turn; one packet where others wait on a slow path."""
HEAD = 14
"""Bytes before the data: length, padding length, type, channel, data length (RFC 4253, 6; RFC 4254, 5.2)."""
_CONTROL_OVERHEAD = 2
"""What any packet holds besides its payload: padding length, type."""
_SLOT = HEAD + PACKET + 2 * TAG
_BATCH = 8 * (PACKET + 64)
_SLOW_BATCH = 2 * (PACKET + 64)
_SLOW = 0.02
"""Seconds: a backlog that takes longer to leave is on a slow path, where turns and backlogs are kept short."""
CONTROL_LIMIT = 1024 * 1024
"""Bytes that wait for the socket beyond which nothing is received: a peer that asks and does not read its answers."""

# One turn's scratch space, shared by all connections: nothing stays in it between two events.
_SCRATCH = mmap_buffer(_SLOT * SLOTS)
_SCRATCH_VIEW = memoryview(_SCRATCH)
SLOT_VIEWS = [_SCRATCH_VIEW[at * _SLOT + HEAD : at * _SLOT + HEAD + PACKET] for at in range(SLOTS)]
"""Where a relay reads what it wants sent; `Outbox.send_data` seals it from there."""
_PADDING = os.urandom(2 * BLOCK)
_write_head = struct.Struct(">IBBII").pack_into


class Sender(Protocol):
    """A relay that has channel data to send."""

    def resume_sending(self) -> None:
        """Send one turn's data now."""

    def abort(self, ending: CloseReason) -> None:
        """Reset both ends now."""


class Outbox:
    """Seals, batches and sends on one SSH connection.

    Args:
        sock: Connected and non-blocking; the wire's, which closes it.
        conn: asyncssh's side.
        changed: Told when `blocked` has changed.
        failed: Told of an error of the socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        conn: PlaneConnection,
        changed: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._waiting: dict[Sender, None] = {}
        """Relays that have something to send and may not, in order of arrival."""
        self.may_send = False
        """Whether channel data may be sent now; see `judge`."""
        self.blocked = False
        """Whether something waits for the socket to take it."""
        self._sock = sock
        self._conn = conn
        self._changed = changed
        self._failed = failed
        self._closed = False
        self._batch_view = memoryview(mmap_buffer(_BATCH))
        self._batched = 0
        self._batch_limit = _BATCH
        self._backlog = SendBuffer()
        """What the socket has not taken; `blocked` while there is some."""
        self._blocked_at = 0.0
        self._due = False
        self._packets_sent = self._bytes_sent = 0
        self._ready = poller()

    @property
    def contended(self) -> bool:
        """Whether turns are to be short: others wait, and the path is slow."""
        return self._batch_limit == _SLOW_BATCH and bool(self._waiting)

    @property
    def congested(self) -> bool:
        """Whether so much waits for the peer that nothing more should be received from it, which adds to that."""
        return self.blocked and len(self._backlog) > CONTROL_LIMIT

    def wait(self, sender: Sender) -> None:
        """Queue `sender` for its next turn; one that waits already keeps its place."""
        self._waiting.setdefault(sender)

    def waits(self, sender: Sender) -> bool:
        """Whether `sender` is in the queue."""
        return sender in self._waiting

    def leave(self, sender: Sender) -> None:
        """Take `sender` out of the queue; no error when it is not in it."""
        self._waiting.pop(sender, None)

    def judge(self) -> None:
        """Decide whether channel data may be sent: not into a full socket, nor while keys are exchanged."""
        self.may_send = not (self.blocked or self._closed or self._conn.dead) and self._conn.may_send_data

    def write(self, data: Any) -> None:
        """Take a sealed packet, or the plain text of the first ones."""
        size = len(data)
        if self._closed:
            return
        if self._batched + size > self._batch_limit:
            self.flush()
        if size > _BATCH or self.blocked:
            self._keep(data)
            return
        self._batch_view[self._batched : self._batched + size] = data
        self._batched += size
        self._flush_due()

    def send_control(self, kind: int, payload: bytes) -> None:
        """Seal a short packet of the channel protocol; asyncssh sends it, or keeps it, where the plane may not."""
        if self._closed or self._conn.dead:
            return
        cipher = self._conn.seals
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
        self._note_sealed(out, length)

    def send_data(self, channel: int, slot: int, size: int) -> None:
        """Seal `size` bytes of `SLOT_VIEWS[slot]` as data for the peer's `channel`."""
        cipher = self._conn.seals
        if cipher is None:  # the cipher changed with the last key exchange: asyncssh's way works with any
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
            self._failed(error)
            return
        if sent < size:
            self._keep(self._batch_view[sent:size])

    def drain(self) -> None:
        """The socket takes again: give it what waits."""
        try:
            self._backlog.send_to(self._sock)
        except OSError as error:
            self._failed(error)
            return
        if self._backlog:
            return
        self.blocked = False
        self._batch_limit = _SLOW_BATCH if time.monotonic() - self._blocked_at > _SLOW else _BATCH
        self.judge()
        self._changed()
        self._serve()

    def serve_soon(self) -> None:
        """Serve the relays that wait, at the end of this turn: keys are exchanged."""
        self._ready.at_iteration_end(self._serve)

    def close(self) -> None:
        """The socket is closed: nothing leaves any more."""
        self._closed = True
        self._backlog = SendBuffer()
        self._batched = 0
        self._waiting.clear()
        self.judge()

    # The inside.

    def _note_sealed(self, out: int, length: int) -> None:
        self._batched = out + 4 + length + TAG
        self._packets_sent += 1
        self._bytes_sent += length
        if not self._due:  # as _flush_due, without its call
            self._due = True
            self._ready.at_iteration_end(self._end_turn)

    def _flush_due(self) -> None:
        if not self._due:
            self._due = True
            self._ready.at_iteration_end(self._end_turn)

    def _end_turn(self) -> None:
        self._due = False
        if self._packets_sent and not self._closed:
            packets, self._packets_sent = self._packets_sent, 0
            size, self._bytes_sent = self._bytes_sent, 0
            # Only here: between the request for new keys and the keys themselves no data may be sent.
            self._conn.sent(packets, size)
        self.flush()

    def _keep(self, data: bytes | memoryview) -> None:
        if self._batched:  # the socket is full in the middle of a relay's turn
            self._backlog.append(self._batch_view[: self._batched])
            self._batched = 0
        self._backlog.append(data)
        if not self.blocked:
            self.blocked = True
            self._blocked_at = time.monotonic()
            self.judge()
            self._changed()

    def _serve(self) -> None:
        """Give each relay that waits one turn, in order of arrival, for as long as the socket takes it."""
        while self._waiting and self.may_send:
            sender = next(iter(self._waiting))
            del self._waiting[sender]
            try:
                sender.resume_sending()
            except Exception:
                log.exception("a relay failed; its client is reset")
                sender.abort(CloseReason.ABORTED)
