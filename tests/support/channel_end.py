"""Implements the SSH server's end of a channel, under the control of a test."""

from collections.abc import Callable
from typing import Any

from asyncssh.constants import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_IGNORE,
)
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from tests.support.ends import BACK, FORTH, End, Seen
from tests.support.plans import Setup

_MSG_DEBUG = 4
_MSG_GLOBAL_REQUEST = 80
_MSG_CHANNEL_SUCCESS, _MSG_CHANNEL_FAILURE = 99, 100
_MOST_PACKETS = 400
"""Limit on the number of packets for queued data. If necessary, packets are larger than the requested size."""


class ChannelEnd(End):
    """The SSH server's end of a channel. The test determines which packets this end sends.

    This end also checks that the gateway follows RFC 4254: the gateway must not exceed the window and the maximum
    packet size, and must not send anything after CHANNEL_CLOSE.

    Args:
        changed: A function that this end calls after each change of its state.
        conn: The SSH server's asyncssh connection, which passes the packets of the channel to this end.
        setup: The initial state of the connection.
    """

    VERBS = ("send", "end", "pause", "resume", "take", "packets_of", "extra")
    LAST_VERBS = ("close", "close_only")

    def __init__(self, changed: Callable[[], None], conn: Any, setup: Setup) -> None:
        super().__init__("far side", changed, BACK, FORTH)
        self._conn, self._setup = conn, setup
        self._number = conn.add_channel(self)
        self._peer = self._allowed = self._max_packet = 0
        self._packet_size = 32768
        self._granted = 0 if setup.paused else setup.window
        self._got_close = self._sent_close = False

    @property
    def willing(self) -> float:
        return super().willing if self.reading else self._granted

    @property
    def listens(self) -> bool:
        return not self.gone

    def pause(self, _: int = 0) -> bool:
        """Stop sending window adjusts. The gateway can then use only the rest of the window."""
        if self.gone or not self.reading:
            return False
        self.reading = False
        return True

    def resume(self, _: int = 0) -> bool:
        if self.gone or self.reading:
            return False
        self.reading = True
        self._top_up()
        return True

    def take(self, size: int) -> bool:
        """Send one window adjust of `size` bytes. This end must be paused."""
        if self.gone or self.reading or self._got_close:
            return False
        self._grant(size)
        return True

    def packets_of(self, size: int) -> bool:
        """Send all later data in packets of `size` bytes, if the window and `_MOST_PACKETS` permit this size."""
        self._packet_size = size
        return not self.gone

    def extra(self, kind: int) -> bool:
        """Send a packet that must not affect the data of the channel.

        Kind 0 is a data packet without data, and kind 1 is an unknown channel request. Kinds 2 to 4 are packets
        without a channel: SSH_MSG_IGNORE, a keepalive request, and SSH_MSG_DEBUG.
        """
        if self.gone or self._got_close:
            return False
        match kind:
            case 0 if not self.ended:
                self._say(MSG_CHANNEL_DATA, String(b""))
            case 1:
                self._say(MSG_CHANNEL_REQUEST, String(b"unknown@example.com"), Boolean(True))
            case 2:
                self._conn.send_packet(MSG_IGNORE, String(b"ignored"))
            case 3:
                self._conn.send_packet(_MSG_GLOBAL_REQUEST, String(b"keepalive@openssh.com"), Boolean(False))
            case 4:
                self._conn.send_packet(_MSG_DEBUG, Boolean(False), String(b"debug"), String(b""))
            case _:
                return False
        return True

    def close(self, _: int = 0) -> bool:
        """Send CHANNEL_EOF, unless this end has already sent it, and then CHANNEL_CLOSE."""
        if not (self.gone or self._got_close or self.ended):
            self._say(MSG_CHANNEL_EOF)
        return self.close_only()

    def close_only(self, _: int = 0) -> bool:
        """Send CHANNEL_CLOSE without CHANNEL_EOF, which RFC 4254, section 5.3, permits."""
        if self.gone or self._got_close:
            return False
        self._send_close()
        self.ended = self.gone = self.delivered = True
        return True

    def dispose(self) -> None:
        if not self._sent_close:
            self._send_close()
        self.gone = True

    def _say(self, kind: int, *fields: bytes) -> None:
        self._conn.send_packet(kind, UInt32(self._peer), *fields)

    def _send_close(self) -> None:
        self.queued = 0  # a window adjust that is still in transit must not cause data after the close
        self._sent_close = True
        self._say(MSG_CHANNEL_CLOSE)
        self._release()

    def _release(self) -> None:
        if self._sent_close and self._got_close:
            self._conn._channels.pop(self._number, None)

    def _grant(self, size: int) -> None:
        self._granted += size
        self._say(MSG_CHANNEL_WINDOW_ADJUST, UInt32(size))

    def _top_up(self) -> None:
        left = self._granted - self.received
        if left <= self._setup.window // 2 and not (self._sent_close or self._got_close):
            self._grant(self._setup.window - left)

    def _flush(self) -> None:
        while self.queued and self._allowed:
            size = min(self._max_packet, max(self._packet_size, self.queued // _MOST_PACKETS))
            data = bytes(self._sends.at(self.sent, min(self.queued, self._allowed, size)))
            self._say(MSG_CHANNEL_DATA, String(data))
            self._allowed -= len(data)
            self.sent += len(data)
            self.queued -= len(data)
        if self._ending and not (self.queued or self.ended or self._sent_close):
            self._say(MSG_CHANNEL_EOF)
            self.ended = True
        self._changed()

    # asyncssh calls the methods below.

    def log_received_packet(self, *_: Any) -> None:
        """Do nothing, because this end does not log packets."""

    log_sent_packet = set_inbound_peer_names = log_received_packet

    def process_open(self, peer: int, window: int, max_packet: int, _: object) -> None:
        self._peer, self._allowed, self._max_packet = peer, window, max_packet
        self._conn.send_channel_open_confirmation(peer, self._number, self._granted, self._setup.packet)
        self.begin(paused=self._setup.paused, early=self._setup.early)

    def process_packet(self, kind: int, _: int, packet: SSHPacket) -> bool:
        if self._got_close:
            self.complaint = f"{self.name}: packet {kind} after a close"
        if kind == MSG_CHANNEL_DATA:
            self._on_data(packet.get_string())
        elif kind == MSG_CHANNEL_WINDOW_ADJUST:
            self._allowed += packet.get_uint32()
            self._flush()
        elif kind == MSG_CHANNEL_EOF:
            if self.seen is not None:
                self.complaint = f"{self.name}: a second EOF"
            self._see(Seen.END)
        elif kind == MSG_CHANNEL_CLOSE:
            self._on_close()
        else:
            return kind in (_MSG_CHANNEL_SUCCESS, _MSG_CHANNEL_FAILURE)
        return True

    def _on_data(self, data: bytes) -> None:
        if self.seen is not None:
            self.complaint = f"{self.name}: data after an EOF"
        left = self._granted - self.received
        if len(data) > min(left, self._setup.packet):
            self.complaint = f"{self.name}: {len(data)} bytes in a packet, {left} in the window"
        self._receive(data)
        if self.reading:
            self._top_up()

    def _on_close(self) -> None:
        self._got_close = True
        if not self._sent_close:
            self._see(Seen.RESET)
            if not self.ended:
                self._refuse()
            if not self._setup.late_reply:
                self._send_close()
        self._release()
        self._changed()

    def process_connection_close(self, _: Exception | None) -> None:
        self._got_close = True
        if not self.gone:
            self._see(Seen.RESET)
            self._refuse()
