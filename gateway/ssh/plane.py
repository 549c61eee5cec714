"""One client joined to one channel of the plane: no task, no queue, no copy that is not needed."""

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import asyncssh
from asyncssh.packet import SSHPacket, UInt32

from gateway.contracts import Ending, Endpoint
from gateway.measure import Histogram, Tap, waiting_since
from gateway.relay.readiness import GONE, READ, WRITE
from gateway.relay.sockets import finish, reset, shut_write
from gateway.relay.watch import Watch
from gateway.ssh import doors
from gateway.ssh.outbox import PACKET, SLOT_VIEWS, SLOTS
from gateway.ssh.windows import CONNECTION_BUDGET, FIRST, MAX_PACKET, PROCESS, Budget, Window

log = logging.getLogger(__name__)

_SAMPLED = 4
"""One answer in so many is measured on each connection, from the first: all of them would cost 3 % of the rate."""
_MOST_PIECES = 64
"""For one sendmsg(2): beyond, joining is cheaper, and at 1024 the kernel refuses."""
RoundTrip = Callable[[], float | None]


class PlaneRelay:
    """See `gateway.contracts.Relay`; to asyncssh it is the handler of a channel.

    Args:
        conn: The SSH connection.
        latency: Where to count response latency.
        round_trip: The connection's last measured round trip in seconds.
        budget: What its window may grow from.
        tap: Sees the bytes, until it is finished.
    """

    __slots__ = (
        "_asked", "_client", "_client_done", "_closed", "_conn", "_got_close", "_got_eof", "_held", "_inbox",
        "_latency", "_number", "_outbox", "_peer", "_peer_packet", "_peer_window", "_round_trip", "_sent_close",
        "_shut", "_streak", "_tap", "_unsampled", "_watch", "answers", "ended", "fresh", "from_backend",
        "last_active", "opened", "to_backend", "window",
    )  # fmt: skip

    def __init__(
        self,
        conn: doors.PlaneConnection,
        latency: Histogram,
        round_trip: RoundTrip,
        budget: Budget,
        tap: Tap | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Ending] = loop.create_future()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.last_active = time.monotonic()
        self.answers = 0
        self.to_backend = self.from_backend = 0
        self._conn = conn
        self._inbox, self._outbox = conn.wire.inbox, conn.wire.outbox
        self._latency = latency
        self._tap = tap
        self._round_trip = round_trip
        self._asked = 0.0
        self._unsampled = 0
        self._client: socket.socket | None = None
        self._watch: Watch | None = None
        self._number = self._peer = -1
        self._peer_window = self._peer_packet = 0
        self.window = Window(budget, FIRST)
        self.fresh: list[memoryview] = []
        """What arrived in this turn, good until `deliver`."""
        self._held: deque[memoryview] | None = None
        """What the client has not taken yet; most clients never need one."""
        self._streak = False
        self._client_done = self._got_eof = self._got_close = self._sent_close = self._closed = self._shut = False

    def request(self, host: str, port: int) -> None:
        """Ask for the channel; `opened` tells what became of it.

        Raises:
            asyncssh.ChannelOpenError: The connection is closed.
        """
        self._number = self._conn.request_channel(self, host, port, self.window.size, MAX_PACKET)
        self._inbox.opening[self._number] = self

    def attach(self, client: socket.socket) -> None:
        """Take over `client` and start: the channel is open."""
        self._client = client
        self._watch = Watch(client, self._on_client, READ)
        if self._closed and not self._got_close:
            self._finish(Ending.LINK_LOST)
            return
        if self._held:
            self._drain()
        self._pass_on_ends()
        self._update()

    @property
    def held(self) -> int:
        """Bytes that the client has not taken yet."""
        return sum(map(len, self._held or ()))

    @property
    def asked(self) -> bool:
        """See `gateway.contracts.Relay`."""
        return self._asked > 0

    @property
    def waiting_since(self) -> float | None:
        """See `gateway.contracts.Relay`."""
        return waiting_since(self._tap, self._asked)

    def abort(self, ending: Ending) -> None:
        """Reset the client and close the channel now; one that is not open yet is closed when it is."""
        self._send_close()
        self._finish(ending)

    def give_up(self, error: Exception) -> None:
        """Nobody waits for the channel any more; when it opens after all, it is closed."""
        if not self.opened.done():
            self.opened.set_exception(error)

    # From the channel to the client: what the inbox calls.

    def deliver(self) -> None:
        """Give the client what arrived in this turn, and keep a copy of what it does not take."""
        fresh, client = self.fresh, self._client
        now = time.monotonic()
        if self._tap is not None:
            for piece in fresh:
                self._tap.back(piece, now)
            if self._tap.finished:
                self._tap = None
        if client is None or self._held or self.ended.done():
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
        except OSError:
            self.abort(Ending.CLIENT_RESET)
            return
        self._took(sent, now)
        if sent < size:
            self._keep(sent)
        else:
            fresh.clear()

    def _answered(self, now: float) -> None:
        """What the client said last has got its answer."""
        self.answers += 1
        if self._tap is None or self._tap.meter is None:
            if self._unsampled == 0:
                self._latency.observe(now - self._asked)
                self._unsampled = _SAMPLED
            self._unsampled -= 1
        self._asked = 0.0

    def _keep(self, sent: int) -> None:
        """Copy what is left of this turn's data after `sent` bytes; a client that is gone needs none of it."""
        if not self.ended.done():
            if self._held is None:
                self._held = deque()
            self._held.append(memoryview(b"".join(self.fresh))[sent:])
        self.fresh.clear()
        self._update()

    def adjust(self, count: int) -> None:
        """The peer allows so many more bytes."""
        stalled = self._peer_window == 0
        self._peer_window += count
        if stalled:
            self._update()

    def confirmed(self, peer: int, window: int, max_packet: int) -> None:
        """The far side is connected."""
        del self._inbox.opening[self._number]
        self._peer, self._peer_window, self._peer_packet = peer, window, min(max_packet, PACKET)
        self._inbox.relays[self._number] = self
        if self.opened.done():  # nobody waits for it any more
            self._send_close()
        else:
            self.opened.set_result(None)

    def ended_by_peer(self, *, close: bool) -> None:
        """The peer sends no more; with `close`, it does not listen any more either."""
        if close:
            self._on_close()
        else:
            self._got_eof = True
            self._pass_on_ends()

    def unpause(self) -> None:
        """The outbox takes data again."""
        self._update()

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
        self.confirmed(peer, window, max_packet)

    def process_open_failure(self, code: int, reason: str, lang: str) -> None:
        """The far side cannot be connected."""
        self._release()
        if not self.opened.done():
            self.opened.set_exception(asyncssh.ChannelOpenError(code, reason, lang))
        elif self._client is not None:
            self._finish(Ending.BACKEND_RESET)

    def process_connection_close(self, exc: Exception | None) -> None:
        """The SSH connection is lost."""
        del exc
        self._release()
        if not self.opened.done():
            self.opened.set_exception(asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "connection lost"))
        elif self._client is not None:
            self._finish(Ending.LINK_LOST)

    def process_packet(self, kind: int, number: int, packet: SSHPacket) -> bool:
        """A packet of the channel that did not come by the inbox's short way."""
        del number
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
            self.window.owed += size
            if self.window.granted < 0:
                raise asyncssh.ProtocolError("more data than the window allows")
        elif kind == doors.MSG_CHANNEL_REQUEST:
            packet.get_string()
            if packet.get_boolean():
                self._outbox.send_control(doors.MSG_CHANNEL_FAILURE, UInt32(self._peer))
        else:
            return False
        return True

    # From the client to the channel.

    def _on_client(self, event: int) -> None:
        try:
            self._turn(event)
        except Exception:
            log.exception("a relay failed; its client is reset")
            self.abort(Ending.ABORTED)

    def _turn(self, event: int) -> None:
        watch = self._watch
        if watch is None:
            return
        if event == watch.mask == READ:
            self._read()  # the usual case; whatever changes what to wait for says so itself
            return
        if watch.mask == GONE:
            self.abort(Ending.CLIENT_RESET)
            return
        if event & (WRITE | GONE) and self._held:
            self._drain()
        if event & ~WRITE and watch.mask & READ and not self.ended.done():
            self._read()
        self._update()

    def _read(self) -> None:
        client, outbox, window = self._client, self._outbox, self._peer_window
        if client is None or self._sent_close or self._closed:
            return
        if not outbox.may_send:
            outbox.paused.add(self)
            self._update()
            return
        limit = min(window, self._peer_packet)
        try:
            if self._streak and window >= PACKET * SLOTS and limit == PACKET:
                count = client.recvmsg_into(SLOT_VIEWS)[0]
            else:
                count = client.recv_into(SLOT_VIEWS[0], limit)
        except BlockingIOError:
            return
        except OSError:
            self.abort(Ending.CLIENT_RESET)
            return
        self.last_active = time.monotonic()
        if count == 0:
            self._client_done = True
            self._outbox.send_control(doors.MSG_CHANNEL_EOF, UInt32(self._peer))
            self._pass_on_ends()
            self._update()
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
            tap.forth(slot[: min(count, PACKET)], self.last_active)
            count -= PACKET

    # Ends, in whatever order they come.

    def _on_close(self) -> None:
        self._got_close = True
        self._send_close()
        self._release()
        self._pass_on_ends()
        self._update()

    def _pass_on_ends(self) -> None:
        """Tell the client of the backend's end, once it has everything, and close what ended both ways."""
        if self._client is None or self._held or self.ended.done():
            return
        if self._got_close:
            # A close without an end before it is the backend's failure, whatever the client said last.
            self._finish(Ending.FINISHED if self._got_eof else Ending.BACKEND_RESET)
        elif self._got_eof and not self._shut:
            self._shut = True
            shut_write(self._client)
        if self._got_eof and self._client_done:
            self._send_close()
            self._finish(Ending.FINISHED)

    def _drain(self) -> None:
        client, held = self._client, self._held
        if client is None or held is None:
            return
        taken = 0
        try:
            while held:
                sent = client.send(held[0])
                taken += sent
                if sent < len(held[0]):
                    held[0] = held[0][sent:]
                    break
                held.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.abort(Ending.CLIENT_RESET)
            return
        self.last_active = now = time.monotonic()
        self._took(taken, now)
        self._pass_on_ends()

    def _took(self, count: int, now: float) -> None:
        self.from_backend += count
        window = self.window
        window.owed += count
        # Nothing is granted once nothing more comes: it would be for nobody.
        if window.owed >= window.step and not (self._got_eof or self._sent_close or self._closed):
            grant = window.grant(now, self._round_trip())
            self._outbox.send_control(doors.MSG_CHANNEL_WINDOW_ADJUST, UInt32(self._peer) + UInt32(grant))

    def _send_close(self) -> None:
        if self._peer >= 0 and not (self._sent_close or self._closed):
            self._sent_close = True
            self._outbox.send_control(doors.MSG_CHANNEL_CLOSE, UInt32(self._peer))

    def _release(self) -> None:
        """The channel is gone on both sides, or with its connection."""
        if not self._closed:
            self._closed = True
            self.window.close()
            self._inbox.opening.pop(self._number, None)
            self._inbox.relays.pop(self._number, None)
            self._outbox.paused.discard(self)
            self._conn.forget_channel(self._number)

    def _finish(self, ending: Ending) -> None:
        """Let the client go: cleanly only when everything was."""
        if self.ended.done():
            return
        client = self._client
        if client is not None:
            if self._watch is not None:
                self._watch.close()
            if ending is Ending.FINISHED:
                finish(client)
            else:
                reset(client)
        self._held = None
        self.fresh.clear()
        self._outbox.paused.discard(self)
        self.ended.set_result(ending)

    def _update(self) -> None:
        if self._watch is None or self.ended.done():
            return
        deaf = self._client_done or self._sent_close or self._closed or self in self._outbox.paused
        reading = self._peer_window > 0 and not deaf
        self._watch.want((READ if reading else 0) | (WRITE if self._held else 0), shut=self._shut)


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
            await relay.opened
        except BaseException:
            relay.abort(Ending.ABORTED)
            raise
        finally:
            late.cancel()
        return relay

    def give_up(self, error: Exception) -> None:
        """See `gateway.ssh.session.Channels`."""
        for relay in list(self._conn.wire.inbox.opening.values()):
            relay.give_up(error)
