"""One client joined to one channel of the plane: no task, no queue, no copy that is not needed."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import asyncssh
from asyncssh.packet import SSHPacket, UInt32

from gateway.contracts import CloseReason, Endpoint
from gateway.measure import Histogram, Tap
from gateway.ssh import doors
from gateway.ssh.outbox import PACKET, SLOT_VIEWS, SLOTS
from gateway.ssh.relay import ClientSide
from gateway.ssh.windows import CONNECTION_BUDGET, FIRST, MAX_PACKET, PROCESS, Budget, Window

_SAMPLED = 4
"""One answer in so many is measured on each connection, from the first: all of them would cost 3 % of the rate."""
_MOST_PIECES = 64
"""For one sendmsg(2): beyond, joining is cheaper, and at 1024 the kernel refuses."""
RoundTrip = Callable[[], float | None]


class PlaneRelay(ClientSide):
    """See `gateway.contracts.Relay`; to asyncssh it is the handler of a channel.

    Args:
        conn: The SSH connection.
        latency: Where to count response latency.
        round_trip: The connection's last measured round trip in seconds.
        budget: What its window may grow from.
        tap: Sees the bytes, until it is finished.
    """

    __slots__ = (
        "_conn", "_inbox", "_number", "_outbox", "_peer", "_peer_packet", "_peer_window", "_released", "_round_trip",
        "_sent_close", "_streak", "_unsampled", "fresh", "opened",
    )  # fmt: skip

    def __init__(
        self,
        conn: doors.PlaneConnection,
        latency: Histogram,
        round_trip: RoundTrip,
        budget: Budget,
        tap: Tap | None = None,
    ) -> None:
        super().__init__(latency, Window(budget, FIRST), tap)
        self.opened: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        """What became of the request for the channel; None once a client is attached."""
        self._conn = conn
        self._inbox, self._outbox = conn.wire.inbox, conn.wire.outbox
        self._round_trip = round_trip
        self._unsampled = 0
        self._number = self._peer = -1
        self._peer_window = self._peer_packet = 0
        self.fresh: list[memoryview] = []
        """What arrived in this turn, good until `deliver`."""
        self._streak = self._sent_close = self._released = False

    def request(self, host: str, port: int) -> None:
        """Ask for the channel; `opened` tells what became of it.

        Raises:
            asyncssh.ChannelOpenError: The connection is closed.
        """
        max_packet = PACKET if self._conn.rekeys_often else MAX_PACKET
        self._number = self._conn.request_channel(self, host, port, self.window.size, max_packet)
        self._inbox.opening[self._number] = self

    def attach(self, client: socket.socket) -> None:
        """See `ClientSide`."""
        self.opened = None
        super().attach(client)

    def give_up(self, error: Exception) -> None:
        """End the wait for the channel; when it opens after all, it is closed."""
        if self.opened is not None and not self.opened.done():
            self.opened.set_exception(error)

    # From the channel to the client: what the inbox calls.

    def deliver(self) -> None:
        """Give the client what arrived in this turn, and keep a copy of what it does not take."""
        fresh, client = self.fresh, self._client
        now = time.monotonic()
        if self._tap is not None:
            for piece in fresh:
                self._tap.on_response(piece, now)
            if self._tap.finished:
                self._tap = None
        if client is None or self._held or self._client_deaf or self.ended.done():
            self._keep(0)
            return
        self.last_active = now
        if self._asked:
            self._answered(now)
        try:
            if len(fresh) == 1:
                size = len(fresh[0])
                sent = client.send(fresh[0])
            else:
                size = sum(map(len, fresh))
                sent = client.sendmsg(fresh) if len(fresh) <= _MOST_PIECES else client.send(b"".join(fresh))
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._client_failed(error)
            self._keep(0)
            return
        self.from_backend += sent
        self._took(sent, now)
        if sent < size:
            self._keep(sent)
        else:
            fresh.clear()

    def _answered(self, now: float) -> None:
        """Record the time since the client's last byte, of one response in `_SAMPLED`."""
        self.responses += 1
        if self._tap is None or self._tap.tracker is None:
            if self._unsampled == 0:
                self._latency.observe(now - self._asked)
                self._unsampled = _SAMPLED
            self._unsampled -= 1
        self._asked = 0.0

    def _keep(self, sent: int) -> None:
        """Copy what is left of this turn's data after `sent` bytes; a client that takes nothing more needs none."""
        if self._client_deaf or self.ended.done():
            self._took(sum(map(len, self.fresh)), self.last_active)
        else:
            for piece in self.fresh:
                if sent < len(piece):
                    self._hold(piece[sent:] if sent else piece)
                sent = max(0, sent - len(piece))
        self.fresh.clear()
        self._update()

    def adjust(self, count: int) -> None:
        """The peer allows so many more bytes."""
        stalled = self._peer_window == 0
        self._peer_window += count
        if stalled:
            self._update()

    def confirmed(self, peer: int, window: int, max_packet: int) -> None:
        """The far side is connected.

        Raises:
            asyncssh.ProtocolError: The peer takes no data at all.
        """
        if max_packet == 0:
            raise asyncssh.ProtocolError("a channel with a maximum packet size of 0")
        del self._inbox.opening[self._number]
        self._peer, self._peer_window, self._peer_packet = peer, window, min(max_packet, PACKET)
        self._inbox.relays[self._number] = self
        if self.opened is None or self.opened.done():  # the caller has given up
            self._send_close()
        else:
            self.opened.set_result(None)

    def ended_by_peer(self, *, close: bool) -> None:
        """The peer sends no more; with `close`, it takes nothing more either (RFC 4254, 5.3)."""
        self.window.granted = 0  # data after the end breaks the protocol as data beyond the window does
        if close:
            self._send_close()
            self._release()
        self._peer_ended(close=close)

    # What asyncssh calls.

    def log_received_packet(self, *args: Any) -> None:
        """Not logged: it would cost more than receiving does."""

    log_sent_packet = log_received_packet

    def close(self) -> None:
        """The connection is about to be closed."""
        self._send_close()

    def process_open_confirmation(self, peer: int, window: int, max_packet: int, packet: SSHPacket) -> None:
        """The far side is connected."""
        del packet
        self._must_be_opening()
        self.confirmed(peer, window, max_packet)

    def process_open_failure(self, code: int, reason: str, lang: str) -> None:
        """The far side cannot be connected."""
        self._must_be_opening()
        self._release()
        self.give_up(asyncssh.ChannelOpenError(code, reason, lang))

    def _must_be_opening(self) -> None:
        if self._number not in self._inbox.opening:
            raise asyncssh.ProtocolError("Channel not being opened")

    def process_connection_close(self, exc: Exception | None) -> None:
        """The SSH connection is lost."""
        del exc
        self._release()
        self.give_up(asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "connection lost"))
        self._lose_link()

    def process_packet(self, kind: int, number: int, packet: SSHPacket) -> bool:
        """A packet of the channel that did not come by the inbox's short way.

        Raises:
            asyncssh.ProtocolError: The peer may not send it now.
        """
        del number
        if self._peer < 0:
            raise asyncssh.ProtocolError("Channel not open")
        if kind == doors.MSG_CHANNEL_DATA:
            data = memoryview(packet.get_string())
            packet.check_end()
            self.window.granted -= len(data)
            if self.window.granted < 0:
                raise asyncssh.ProtocolError("more data than the window allows")
            self.fresh.append(data)
            self.deliver()
        elif kind == doors.MSG_CHANNEL_WINDOW_ADJUST:
            self.adjust(packet.get_uint32())
        elif kind in (doors.MSG_CHANNEL_EOF, doors.MSG_CHANNEL_CLOSE):
            self.ended_by_peer(close=kind == doors.MSG_CHANNEL_CLOSE)
        elif kind == doors.MSG_CHANNEL_EXTENDED_DATA:
            packet.get_uint32()
            size = len(packet.get_string())  # a TCP channel has no second stream: it is taken, and dropped
            self.window.granted -= size
            if self.window.granted < 0:
                raise asyncssh.ProtocolError("more data than the window allows")
            self._took(size, self.last_active)
        elif kind == doors.MSG_CHANNEL_REQUEST:
            packet.get_string()
            if packet.get_boolean() and not self._sent_close:
                self._outbox.send_control(doors.MSG_CHANNEL_FAILURE, UInt32(self._peer))
        else:
            return False
        return True

    # From the client to the channel.

    def _read(self) -> None:
        client, outbox, window = self._client, self._outbox, self._peer_window
        if client is None or self._sent_close or self._channel_done or not window:
            return
        if not outbox.may_send:
            outbox.wait(self)
            self._update()
            return
        limit = min(window, self._peer_packet)
        many = self._streak and window >= PACKET * SLOTS and limit == PACKET and not outbox.contended
        try:
            count = client.recvmsg_into(SLOT_VIEWS)[0] if many else client.recv_into(SLOT_VIEWS[0], limit)
        except BlockingIOError:
            return
        except OSError:
            self._client_reset()
            return
        self.last_active = time.monotonic()
        if count == 0:
            self._client_ended()
            return
        self._asked = self.last_active
        self.to_backend += count
        if self._tap is not None:
            self._show(count)
        self._peer_window = window - count
        if count == window:
            self._update()
        # A full read is the sign of a bulk transfer: the next one may fill several packets.
        self._streak = count >= limit == PACKET
        slot = 0
        while count > PACKET:
            outbox.send_data(self._peer, slot, PACKET)
            slot += 1
            count -= PACKET
        outbox.send_data(self._peer, slot, count)

    def _show(self, count: int) -> None:
        """Let the tap see what was read."""
        tap = self._tap
        for slot in SLOT_VIEWS:
            if count <= 0 or tap is None:
                break
            tap.on_request(slot[: min(count, PACKET)], self.last_active)
            count -= PACKET

    def _may_read(self) -> bool:
        return self._peer_window > 0 and not self._sent_close and not self._outbox.waits(self)

    def _send_eof(self) -> None:
        self._outbox.send_control(doors.MSG_CHANNEL_EOF, UInt32(self._peer))

    def _leave_queue(self) -> None:
        self._outbox.leave(self)

    def _took(self, count: int, now: float) -> None:
        window = self.window
        window.owed += count
        # Nothing is granted once nothing more comes.
        if window.owed >= window.step and not (self._got_eof or self._sent_close or self._released):
            grant = window.grant(now, self._round_trip())
            self._outbox.send_control(doors.MSG_CHANNEL_WINDOW_ADJUST, UInt32(self._peer) + UInt32(grant))

    def _send_close(self) -> None:
        if self._peer >= 0 and not (self._sent_close or self._released):
            self._sent_close = True
            self._outbox.send_control(doors.MSG_CHANNEL_CLOSE, UInt32(self._peer))

    def _release(self) -> None:
        """Forget the channel: it is closed on both sides, or lost with its connection."""
        if not self._released:
            self._released = True
            self._inbox.opening.pop(self._number, None)
            self._inbox.relays.pop(self._number, None)
            self._outbox.leave(self)
            self._conn.forget_channel(self._number)


class PlaneChannels:
    """Opens channels of the plane; see `gateway.ssh.session.Channels`.

    Args:
        conn: The SSH connection.
        round_trip: Its last measured round trip in seconds.
    """

    def __init__(self, conn: doors.PlaneConnection, round_trip: RoundTrip) -> None:
        self._conn = conn
        self._round_trip = round_trip
        self._budget = Budget(CONNECTION_BUDGET, PROCESS)

    @property
    def opening(self) -> int:
        """Channels that are being opened, given up or not."""
        return len(self._conn.wire.inbox.opening)

    async def open(
        self,
        to: Endpoint,
        latency: Histogram,
        timeout: float,  # noqa: ASYNC109 - see the protocol
        tap: Tap | None = None,
    ) -> PlaneRelay:
        """See `gateway.ssh.session.Channels`."""
        relay = PlaneRelay(self._conn, latency, self._round_trip, self._budget, tap)
        try:
            relay.request(to.host, to.port)
        except BaseException:
            relay.window.close()
            raise
        late = asyncio.get_running_loop().call_later(timeout, relay.give_up, TimeoutError())
        try:
            if relay.opened is not None:
                await relay.opened
        except BaseException:
            relay.abort(CloseReason.ABORTED)
            raise
        finally:
            late.cancel()
        return relay

    def give_up(self, error: Exception) -> None:
        """See `gateway.ssh.session.Channels`."""
        for relay in list(self._conn.wire.inbox.opening.values()):
            relay.give_up(error)
