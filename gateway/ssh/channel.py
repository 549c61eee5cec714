"""One client joined to one SSH channel of asyncssh's own: the relay that works with every cipher."""

import asyncio
import socket
import time
from functools import partial
from typing import Any, cast

import asyncssh

from gateway.contracts import CloseReason, Endpoint
from gateway.measure import Histogram, Tap
from gateway.ssh.doors import grant, grant_nothing, send_window, undelivered
from gateway.ssh.outbox import PACKET, Outbox
from gateway.ssh.relay import ClientSide
from gateway.ssh.windows import FIRST, Budget, Window

_NO_GROWTH = Budget(0)
MAX_PACKET = 32 * 1024
_Opened = tuple["asyncssh.SSHTCPChannel[bytes]", "asyncssh.SSHTCPSession[bytes]"]
_READ_SIZE = 64 * 1024


class StockRelay(ClientSide, asyncssh.SSHTCPSession[bytes]):
    """Pumps between a client socket and a channel; see `gateway.contracts.Relay`.

    asyncssh calls it as the channel's session; nothing it does there may raise, or the whole SSH connection
    would end. It owns the client only from `attach` on.

    Args:
        latency: Where to count response latency.
        outbox: Where its turn to send comes, among all relays of the connection; None: at any time.
        tap: Sees the bytes, until it is finished.
    """

    def __init__(self, latency: Histogram, outbox: Outbox | None, tap: Tap | None = None) -> None:
        super().__init__(latency, Window(_NO_GROWTH, FIRST), tap)
        self._outbox = outbox
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._channel_full = False

    # What asyncssh calls.

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        """The channel is open; its data waits in it until there is a client."""
        chan.pause_reading()
        self._channel = chan

    def attach(self, client: socket.socket) -> None:
        """Take over `client` and start: the channel is open."""
        super().attach(client)
        if self._channel is not None and not self._channel_done:
            self._channel.resume_reading()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Bytes from the backend."""
        del datatype
        client = self._client
        if client is None or self.ended.done():
            return
        self._measure(data)
        sent = 0
        if not self._held:
            try:
                sent = client.send(data)
            except BlockingIOError:
                pass
            except OSError as error:
                self._client_failed(error)
            self.from_backend += sent
            self._took(sent, self.last_active)
        if self._client_deaf:
            self._took(len(data), self.last_active)
        elif sent < len(data):
            self._hold(memoryview(data)[sent:])
            self._update()

    def _measure(self, data: bytes) -> None:
        self.last_active = now = time.monotonic()
        if self._tap is not None:
            self._tap.on_response(memoryview(data), now)
            if self._tap.finished:
                self._tap = None
        if self._asked:
            if self._tap is None or self._tap.tracker is None:
                self._latency.observe(now - self._asked)
            self._asked = 0.0
            self.responses += 1

    def eof_received(self) -> bool:
        """The backend has said everything; the other direction stays open."""
        self._peer_ended(close=False)
        return True

    def resume_writing(self) -> None:
        """The peer's window takes bytes again."""
        if self._channel_full:
            self._channel_full = False
            self._update()

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed, or the SSH connection under it is lost; what it still held is the client's."""
        del exc
        rest = undelivered(self._channel)
        for piece in rest.data:
            self._hold(piece)
        if rest.closed:
            self._peer_ended(close=True)
        else:
            self._got_eof |= rest.ended
            self._lose_link()

    # What the client's side does with the channel.

    def _read(self) -> None:
        client, channel, outbox = self._client, self._channel, self._outbox
        if client is None or channel is None or self._channel_done:
            return
        if outbox is not None and not outbox.may_send:
            outbox.wait(self)
            self._update()
            return
        room = send_window(channel)
        if not room:  # what asyncssh keeps for later is not fair to others, and lost when the peer closes
            self._channel_full = True
            self._update()
            return
        try:
            data = client.recv(min(room, PACKET if outbox is not None and outbox.contended else _READ_SIZE))
        except BlockingIOError:
            return
        except OSError:
            self._client_reset()
            return
        self.last_active = time.monotonic()
        if not data:
            self._client_ended()
            return
        self._asked = self.last_active
        if self._tap is not None:
            self._tap.on_request(memoryview(data), self.last_active)
        self.to_backend += len(data)
        try:
            channel.write(data)
        except BrokenPipeError:  # the peer closed; what it said before is still on its way to the client
            self._upload_lost = self._channel_full = True
            self._update()

    def _may_read(self) -> bool:
        return not self._channel_full and (self._outbox is None or not self._outbox.waits(self))

    def _send_eof(self) -> None:
        if self._channel is not None:
            self._channel.write_eof()

    def _send_close(self) -> None:
        if self._channel is not None and not self._channel_done:
            self._channel.close()

    def _leave_queue(self) -> None:
        if self._outbox is not None:
            self._outbox.leave(self)

    def _took(self, count: int, now: float) -> None:
        window = self.window
        window.owed += count
        if window.owed >= window.step and self._channel is not None and not (self._got_eof or self._channel_done):
            grant(self._channel, window.grant(now, None))


class StockChannels:
    """Opens asyncssh's own channels; see `gateway.ssh.session.Channels`.

    Args:
        conn: The SSH connection.
        outbox: Where its channels wait for their turn to send, where the gateway owns the connection's socket.
    """

    def __init__(self, conn: asyncssh.SSHClientConnection, outbox: Outbox | None = None) -> None:
        self._conn = conn
        self._outbox = outbox
        grant_nothing(conn)
        self._opening: set[asyncio.Task[_Opened]] = set()
        self._given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def opening(self) -> int:
        """Channels that are being opened, given up or not."""
        return len(self._opening)

    async def open(
        self,
        to: Endpoint,
        latency: Histogram,
        timeout: float,  # noqa: ASYNC109 - see the protocol
        tap: Tap | None = None,
    ) -> StockRelay:
        """See `gateway.ssh.session.Channels`."""
        relay = StockRelay(latency, self._outbox, tap)
        # An open that is cancelled leaks its channel (asyncssh #823): it runs in a task of its own, and one that
        # nobody waits for any more is aborted when it completes.
        opening: asyncio.Task[_Opened] = asyncio.ensure_future(self._channel(relay, to))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        given_up = self._given_up
        try:
            both: set[asyncio.Future[Any]] = {opening, given_up}
            await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            opening.add_done_callback(partial(_abort_late, relay))  # also where it completes in this very turn
            raise
        if opening.done():
            opening.result()
            return relay
        opening.add_done_callback(partial(_abort_late, relay))
        if given_up.done():
            given_up.result()
        raise TimeoutError

    def give_up(self, error: Exception) -> None:
        """See `gateway.ssh.session.Channels`."""
        given_up, self._given_up = self._given_up, asyncio.get_running_loop().create_future()
        given_up.set_exception(error)
        given_up.exception()  # whether or not somebody waits

    async def _channel(self, relay: StockRelay, to: Endpoint) -> _Opened:
        try:
            if to.is_unix:
                opened: Any = await self._conn.create_unix_connection(
                    cast("Any", lambda: relay), to.host, window=relay.window.size, max_pktsize=MAX_PACKET
                )
                return cast("_Opened", opened)
            return await self._conn.create_connection(
                lambda: relay, to.host, to.port, "127.0.0.1", 0, window=relay.window.size, max_pktsize=MAX_PACKET
            )
        except BaseException:
            relay.window.close()
            raise


def _abort_late(relay: StockRelay, opening: asyncio.Task[_Opened]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        relay.abort(CloseReason.ABORTED)
