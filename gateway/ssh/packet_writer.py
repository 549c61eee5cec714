"""Encrypts and sends packets on one SSH connection, many packets per system call.

Packets of asyncssh and of the native data plane go into one batch, in the order of encryption. The writer sends the
batch at the end of the event loop's iteration, or when the batch is full. Data that the socket does not accept waits
in a backlog. While there is a backlog, relays that have data to send wait in a queue. They send in round-robin order.
"""

import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Protocol

from gateway.contracts.states import CloseReason
from gateway.relay.mmap_buffer import mmap_buffer
from gateway.relay.poller import poller
from gateway.relay.send_buffer import SendBuffer
from gateway.relay.sockets import NOTSENT_LOWAT, limit_unsent
from gateway.ssh.aes_gcm import BLOCK, COUNTER_AT, MASK, MIN_PADDING, TAG, put_counter
from gateway.ssh.asyncssh_internals import DATA_OVERHEAD, MSG_CHANNEL_DATA
from gateway.ssh.client_connection import ClientConnection

log = logging.getLogger(__name__)

MAX_SEND_PACKET = 32 * 1024
"""Data bytes per sent packet: the maximum that OpenSSH accepts."""
SLOTS = 4
"""Maximum number of packets that one relay reads and sends in a turn. The limit is one packet if the path is slow and
other relays wait."""
DATA_HEADER = 14
"""Bytes before the data: packet length, padding length, message number, channel, data length (RFC 4253, section 6;
RFC 4254, section 5.2)."""
_CONTROL_OVERHEAD = 2
"""Bytes of padding length and message number, which every packet contains in addition to its payload."""
_SLOT_SIZE = DATA_HEADER + MAX_SEND_PACKET + 2 * TAG
_BATCH_SIZE = 8 * (MAX_SEND_PACKET + 64)
_SLOW_BATCH_SIZE = 2 * (MAX_SEND_PACKET + 64)
_SLOW_DRAIN = 0.02
"""Seconds to write a backlog. If it takes longer, the path counts as slow: turns and batches are then short."""
_SLOW_PERIOD = 1.0
"""Seconds for which a path counts as slow after such a backlog, because slow paths often accept data in bursts."""
_FAST_NOTSENT_LOWAT = 4 * NOTSENT_LOWAT
"""Limit on unsent bytes in the kernel on a fast path. A larger limit causes fewer wakeups per byte, and the kernel
still sends this data within milliseconds."""
_FAST_DRAIN = 0.001
"""Seconds to send half of `NOTSENT_LOWAT`. If it takes less time, the path is fast (above 64 MB/s)."""
_NOT_FAST_DRAIN = 0.01
"""Seconds to send half of `_FAST_NOTSENT_LOWAT`. If it takes longer, the path is no longer fast (below 26 MB/s)."""
MAX_CONTROL_BACKLOG = 1024 * 1024
"""Backlog in bytes above which receiving stops. This limits the replies that wait for a peer that does not read."""

# All connections share this scratch space for packets to encrypt. No data stays in it after an event is handled.
_SCRATCH = mmap_buffer(_SLOT_SIZE * SLOTS)
_SCRATCH_VIEW = memoryview(_SCRATCH)
SLOT_VIEWS = [
    _SCRATCH_VIEW[at * _SLOT_SIZE + DATA_HEADER : at * _SLOT_SIZE + DATA_HEADER + MAX_SEND_PACKET]
    for at in range(SLOTS)
]
"""Buffers into which relays read client data. `PacketWriter.send_data` encrypts the data from these buffers."""
_PADDING = os.urandom(2 * BLOCK)
_pack_data_header = struct.Struct(">IBBII").pack_into


class ChannelSender(Protocol):
    """A relay in the send queue of a `PacketWriter`, which waits for its turn to send channel data."""

    def resume_sending(self) -> None:
        """Send the data of one turn now."""

    def abort(self, close_reason: CloseReason) -> None:
        """Reset both ends now."""


class PacketWriter:
    """Encrypts, batches and sends packets of one SSH connection.

    Args:
        sock: A connected, non-blocking socket, owned by `PacketTransport`.
        conn: The asyncssh connection.
        on_blocked_changed: Called after `blocked` changes.
        on_error: Called with an error of the socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        conn: ClientConnection,
        on_blocked_changed: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._queue: dict[ChannelSender, None] = {}
        """Relays that wait to send, in order of arrival."""
        self.may_send = False
        """Whether channel data can be sent now; see `update_may_send`."""
        self.blocked = False
        """Whether encrypted data waits in the backlog."""
        self._sock = sock
        self._conn = conn
        self._on_blocked_changed = on_blocked_changed
        self._on_error = on_error
        self._closed = False
        self._batch_view = memoryview(mmap_buffer(_BATCH_SIZE))
        self._batched = 0
        self._batch_limit = _BATCH_SIZE
        self._slow_until = 0.0
        """The monotonic time until which the path counts as slow, in seconds."""
        self._round_size = 0
        """Relays that waited when the queue was last served."""
        self._backlog = SendBuffer()
        """Encrypted data that the socket has not accepted."""
        self._blocked_at = 0.0
        """The monotonic time at which `blocked` last became true, in seconds."""
        self._notsent_lowat = NOTSENT_LOWAT
        limit_unsent(sock)
        self._flush_scheduled = False
        self._packets_sent = self._bytes_sent = 0
        self._ready = poller()

    @property
    def contended(self) -> bool:
        """Whether turns must be short, because the path is slow and relays wait in the queue."""
        return self._batch_limit == _SLOW_BATCH_SIZE and (self._round_size > 1 or bool(self._queue))

    @property
    def congested(self) -> bool:
        """Whether the backlog is so large that receiving must stop, because replies would make it larger."""
        return self.blocked and len(self._backlog) > MAX_CONTROL_BACKLOG

    def enqueue(self, sender: ChannelSender) -> None:
        """Queue `sender` for its next turn. A sender that is already queued keeps its position."""
        self._queue.setdefault(sender)

    def is_queued(self, sender: ChannelSender) -> bool:
        """Return whether `sender` is in the queue."""
        return sender in self._queue

    def dequeue(self, sender: ChannelSender) -> None:
        """Remove `sender` from the queue. Do nothing if `sender` is not queued."""
        self._queue.pop(sender, None)

    def update_may_send(self) -> None:
        """Set `may_send`: False while the socket is full or closed, and during a key exchange; otherwise True."""
        self.may_send = not (self.blocked or self._closed or self._conn.transport_closed) and self._conn.may_send_data

    def write(self, data: Any) -> None:
        """Add a packet from asyncssh to the batch. asyncssh encrypts packets after the first key exchange."""
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

    def send_control(self, msg_type: int, payload: bytes) -> None:
        """Encrypt and batch a short packet of the connection protocol.

        During a key exchange, or if the cipher is not AES-GCM, this method passes the packet to asyncssh, which sends
        the packet as soon as possible.

        Args:
            msg_type: The SSH message number.
            payload: The rest of the packet.
        """
        if self._closed or self._conn.transport_closed:
            return
        cipher = self._conn.send_cipher
        if cipher is None or not self._conn.may_send_data:
            self._conn.send_packet(msg_type, payload)
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
            b"%c%c%b%b" % (padding, msg_type, payload, _PADDING[:padding]),
            head,
            batch[out + 4 : out + 4 + length + TAG],
        )
        cipher.advance()
        self._count_sealed(out, length)

    def send_data(self, channel: int, slot: int, size: int) -> None:
        """Encrypt and batch channel data.

        Args:
            channel: The peer's channel number.
            slot: Index in `SLOT_VIEWS` of the buffer that holds the data.
            size: Bytes to send, up to `MAX_SEND_PACKET`.
        """
        cipher = self._conn.send_cipher
        if cipher is None:  # a key exchange has changed the cipher, and only asyncssh supports the new one
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
        """Write the batch to the socket. Data that the socket does not accept is appended to the backlog."""
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
        """Write the backlog to the socket when it is writable again; then give the queued relays their turns."""
        try:
            self._backlog.send_to(self._sock)
        except OSError as error:
            self._on_error(error)
            return
        if self._backlog:
            return
        self.blocked = False
        self._adapt(time.monotonic() - self._blocked_at)
        self.update_may_send()
        self._on_blocked_changed()
        self._serve_queue()

    def schedule_queue(self) -> None:
        """Give the queued relays their turns at the end of this loop iteration. Called after a key exchange."""
        self._ready.at_iteration_end(self._serve_queue)

    def close(self) -> None:
        """Stop sending, and drop all data. Called when the socket is closed."""
        self._closed = True
        self._backlog = SendBuffer()
        self._batched = 0
        self._queue.clear()
        self.update_may_send()

    def _adapt(self, seconds: float) -> None:
        """Adapt the batch size and the limit on unsent data in the kernel to the speed of the path.

        Args:
            seconds: How long the socket was full.
        """
        now = self._blocked_at + seconds
        if seconds > _SLOW_DRAIN:
            self._slow_until = now + _SLOW_PERIOD
        self._batch_limit = _SLOW_BATCH_SIZE if now < self._slow_until else _BATCH_SIZE
        lowat = self._notsent_lowat
        if seconds < _FAST_DRAIN:
            lowat = _FAST_NOTSENT_LOWAT
        elif seconds > _NOT_FAST_DRAIN:
            lowat = NOTSENT_LOWAT
        if lowat != self._notsent_lowat:
            self._notsent_lowat = lowat
            limit_unsent(self._sock, lowat)

    def _count_sealed(self, out: int, length: int) -> None:
        self._batched = out + 4 + length + TAG
        self._packets_sent += 1
        self._bytes_sent += length
        if not self._flush_scheduled:  # `_schedule_flush` is inlined here, because this code runs for every packet
            self._flush_scheduled = True
            self._ready.at_iteration_end(self.finish_turn)

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._ready.at_iteration_end(self.finish_turn)

    def finish_turn(self) -> None:
        """Count the packets of this turn, and write the batch."""
        self._flush_scheduled = False
        if self._packets_sent and not self._closed:
            packets, self._packets_sent = self._packets_sent, 0
            size, self._bytes_sent = self._bytes_sent, 0
            # Count the packets last: counting can start a key exchange, and no data must be sent during a key
            # exchange.
            self._conn.count_sent(packets, size)
        self.flush()

    def _append_backlog(self, data: bytes | memoryview) -> None:
        if self._batched:  # the socket has become full during a relay's turn
            self._backlog.append(self._batch_view[: self._batched])
            self._batched = 0
        self._backlog.append(data)
        if not self.blocked:
            self.blocked = True
            self._blocked_at = time.monotonic()
            self.update_may_send()
            self._on_blocked_changed()

    def _serve_queue(self) -> None:
        """Give each queued relay one turn, in order of arrival, until the socket is full."""
        self._round_size = len(self._queue)
        while self._queue and self.may_send:
            sender = next(iter(self._queue))
            del self._queue[sender]
            try:
                sender.resume_sending()
            except Exception:
                log.exception("a relay failed; its client is reset")
                sender.abort(CloseReason.ABORTED)
