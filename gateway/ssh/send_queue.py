"""Sends the packets of one SSH connection, many packets per system call, and decides when each relay may send.

asyncssh encrypts the packets. The queue collects them in a batch. It sends the batch at the end of the event loop's
iteration, or earlier if the batch is full. Data that the socket does not accept waits in a backlog. While the backlog
is not empty, relays do not read from their clients. When the backlog is empty, the relays send in round-robin order.
"""

import logging
import socket
import time
from collections.abc import Callable
from typing import Protocol

from gateway.contracts.states import CloseReason
from gateway.relay.fd_poller import poller
from gateway.relay.send_buffer import SendBuffer
from gateway.relay.sockets import NOTSENT_LOWAT, limit_unsent
from gateway.ssh.flow_control import MAX_SEND_PACKET
from gateway.ssh.ssh_connection import SshConnection

log = logging.getLogger(__name__)

_BATCH_SIZE = 8 * (MAX_SEND_PACKET + 64)
_SLOW_BATCH_SIZE = 2 * (MAX_SEND_PACKET + 64)
_SLOW_DRAIN = 0.02
"""If writing the backlog to the socket takes longer than this number of seconds, the network path counts as slow. On
a slow path, relays send only little data per turn, and batches are short."""
_SLOW_PERIOD = 1.0
"""If writing a backlog takes longer than `_SLOW_DRAIN`, the network path counts as slow for this number of seconds.
The next writes do not change this, even if they are fast, because a slow path often accepts data in bursts."""
_FAST_NOTSENT_LOWAT = 4 * NOTSENT_LOWAT
"""Limit on unsent bytes in the kernel if the network path is fast. The limit is higher than `NOTSENT_LOWAT`, so that
the process wakes up less often. The kernel still sends the data within milliseconds."""
_FAST_DRAIN = 0.001
"""If the kernel sends half of `NOTSENT_LOWAT` in less than this number of seconds, the path is fast (above
64 MB/s)."""
_NOT_FAST_DRAIN = 0.01
"""If the kernel takes more than this number of seconds to send half of `_FAST_NOTSENT_LOWAT`, the path is no longer
fast (below 26 MB/s)."""
MAX_CONTROL_BACKLOG = 1024 * 1024
"""If the backlog is larger than this number of bytes, the connection stops receiving. Without this limit, a server
that sends requests but does not read the replies could make the backlog grow indefinitely."""


class ChannelSender(Protocol):
    """Defines the interface of relays that wait in a `SendQueue` for their turn to send channel data."""

    def resume_sending(self) -> None:
        """Send some channel data. The queue calls this method when it is the turn of this relay."""

    def abort(self, close_reason: CloseReason) -> None:
        """Reset the client's connection, and close the channel."""


class SendQueue:
    """Sends the packets of one SSH connection in batches, and lets the relays of the connection send in turn.

    Args:
        sock: A connected, non-blocking socket, owned by `AsyncsshTransport`.
        conn: The asyncssh connection.
        on_blocked_changed: Called after the attribute `blocked` has changed.
        on_error: Called with an error of the socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        conn: SshConnection,
        on_blocked_changed: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._waiting: dict[ChannelSender, None] = {}
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
        self._batch: list[bytes] = []
        self._batched = 0
        """Number of bytes in `_batch`."""
        self._batch_limit = _BATCH_SIZE
        self._slow_until = 0.0
        """The path counts as slow until this monotonic time, in seconds."""
        self._round_size = 0
        """Number of relays that were queued when `_give_turns` last started."""
        self._backlog = SendBuffer()
        """Encrypted data that the socket has not accepted."""
        self._blocked_at = 0.0
        """Monotonic time, in seconds, at which `blocked` last became true."""
        self._notsent_lowat = NOTSENT_LOWAT
        limit_unsent(sock)
        self._flush_scheduled = False
        self._ready = poller()

    @property
    def contended(self) -> bool:
        """Whether relays may send only little data per turn, because the path is slow and other relays wait."""
        return self._batch_limit == _SLOW_BATCH_SIZE and (self._round_size > 1 or bool(self._waiting))

    @property
    def congested(self) -> bool:
        """Whether the backlog is so large that receiving must stop, because replies would make it larger."""
        return self.blocked and len(self._backlog) > MAX_CONTROL_BACKLOG

    def enqueue(self, sender: ChannelSender) -> None:
        """Queue `sender` until it can send channel data. A sender that is already queued keeps its position."""
        self._waiting.setdefault(sender)

    def is_queued(self, sender: ChannelSender) -> bool:
        """Return whether `sender` is in the queue."""
        return sender in self._waiting

    def dequeue(self, sender: ChannelSender) -> None:
        """Remove `sender` from the queue. Do nothing if `sender` is not queued."""
        self._waiting.pop(sender, None)

    def update_may_send(self) -> None:
        """Set `may_send` to False if the socket is full or closed, or during a key exchange; otherwise, to True."""
        self.may_send = not (self.blocked or self._closed or self._conn.transport_closed) and self._conn.may_send_data

    def write(self, packet: bytes) -> None:
        """Add a packet to the batch."""
        if self._closed:
            return
        if self._batched + len(packet) > self._batch_limit:
            self.flush()
        if self.blocked:
            self._append_backlog(packet)
            return
        self._batch.append(packet)
        self._batched += len(packet)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._ready.at_iteration_end(self._flush_at_iteration_end)

    def flush(self) -> None:
        """Write the batch to the socket. Data that the socket does not accept is appended to the backlog."""
        batch, self._batch, self._batched = self._batch, [], 0
        if not batch or self._closed:
            return
        data = batch[0] if len(batch) == 1 else b"".join(batch)
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._on_error(error)
            return
        if sent < len(data):
            self._append_backlog(memoryview(data)[sent:])

    def drain(self) -> None:
        """Write the backlog to the socket. If the backlog is then empty, let the queued relays send."""
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
        self._give_turns()

    def give_turns_later(self) -> None:
        """Let the queued relays send at the end of this loop iteration. Called after a key exchange."""
        self._ready.at_iteration_end(self._give_turns)

    def close(self) -> None:
        """Stop sending, and drop all unsent data. Called when the socket is closed or passed to the native engine."""
        self._closed = True
        self._backlog = SendBuffer()
        self._batch, self._batched = [], 0
        self._waiting.clear()
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

    def _flush_at_iteration_end(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def _append_backlog(self, data: bytes | memoryview) -> None:
        self._backlog.append(data)
        if not self.blocked:
            self.blocked = True
            self._blocked_at = time.monotonic()
            self.update_may_send()
            self._on_blocked_changed()

    def _give_turns(self) -> None:
        """Give each queued relay one turn, in order of arrival, until the socket is full."""
        self._round_size = len(self._waiting)
        while self._waiting and self.may_send:
            sender = next(iter(self._waiting))
            del self._waiting[sender]
            try:
                sender.resume_sending()
            except Exception:
                log.exception("a relay failed; the connection of its client is reset")
                sender.abort(CloseReason.ABORTED)
