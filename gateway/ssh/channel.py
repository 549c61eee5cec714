"""One client joined to one SSH channel of asyncssh's own: the relay that works with every cipher."""

import asyncio
import logging
import socket
import time
from typing import Any, cast

import asyncssh

from gateway.contracts import Ending, Endpoint
from gateway.measure import Histogram, Tap, waiting_since
from gateway.relay.readiness import GONE, READ, WRITE
from gateway.relay.sockets import finish, reset, shut_write
from gateway.relay.watch import Watch
from gateway.ssh.doors import ended_by_peer, note_ends
from gateway.ssh.windows import FIRST, Budget, Window

log = logging.getLogger(__name__)

_NO_GROWTH = Budget(0)
MAX_PACKET = 32 * 1024
_Opened = tuple["asyncssh.SSHTCPChannel[bytes]", "asyncssh.SSHTCPSession[bytes]"]
_READ_SIZE = 64 * 1024
_SEND_AHEAD = 256 * 1024


class StockRelay(asyncssh.SSHTCPSession[bytes]):
    """Pumps between a client socket and a channel; see `gateway.contracts.Relay`.

    asyncssh calls it as the channel's session; nothing it does there may raise, or the whole SSH connection
    would end. It owns the client only from `attach` on.

    Args:
        latency: Where to count response latency.
        tap: Sees the bytes, until it is finished.
    """

    def __init__(self, latency: Histogram, tap: Tap | None = None) -> None:
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.last_active = time.monotonic()
        self.answers = 0
        self.to_backend = 0
        self.from_backend = 0
        self.window = Window(_NO_GROWTH, FIRST)
        self._latency = latency
        self._tap = tap
        self._asked = 0.0
        self._watch: Watch | None = None
        self._client: socket.socket | None = None
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._held = bytearray()
        self._channel_full = False
        self._client_done = False
        self._backend_done = False
        self._lost: Exception | None = None
        self._closed = False
        self._shut = False

    def attach(self, client: socket.socket) -> None:
        """Take over `client` and start: the channel is open."""
        self._client = client
        self._watch = Watch(client, self._on_client, READ)
        if self._channel is None or self._closed:
            self._channel_closed()
            return
        self._channel.resume_reading()
        self._update()

    @property
    def asked(self) -> bool:
        """See `gateway.contracts.Relay`."""
        return self._asked > 0

    @property
    def waiting_since(self) -> float | None:
        """See `gateway.contracts.Relay`."""
        return waiting_since(self._tap, self._asked)

    def abort(self, ending: Ending) -> None:
        """Reset the client and close the channel now."""
        if self.ended.done():
            return
        self._release(hard=True)
        if self._channel is not None:
            self._channel.abort()
        self.ended.set_result(ending)

    # What asyncssh calls.

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        """The channel is open; nothing is read from it before there is a client."""
        chan.set_write_buffer_limits(high=_SEND_AHEAD)
        chan.pause_reading()
        self._channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Bytes from the backend."""
        del datatype
        client = self._client
        if client is None or self.ended.done():
            return
        self.last_active = now = time.monotonic()
        if self._tap is not None:
            self._tap.back(memoryview(data), now)
            if self._tap.finished:
                self._tap = None
        if self._asked:
            if self._tap is None or self._tap.meter is None:
                self._latency.observe(now - self._asked)
            self._asked = 0.0
            self.answers += 1
        self.from_backend += len(data)
        if not self._held:
            try:
                sent = client.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.abort(Ending.CLIENT_RESET)
                return
            if sent == len(data):
                return
            data = data[sent:]
            cast("asyncssh.SSHTCPChannel[bytes]", self._channel).pause_reading()
        self._held += data
        self._update()

    def eof_received(self) -> bool:
        """The backend has said everything; the other direction stays open."""
        self._backend_done = True
        if not self._held:
            self._pass_backend_end()
        return True

    def pause_writing(self) -> None:
        """The channel's window is used up."""
        self._channel_full = True
        self._update()

    def resume_writing(self) -> None:
        """The channel takes bytes again."""
        self._channel_full = False
        self._update()

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed, or the SSH connection under it is lost."""
        self._closed = True
        self.window.close()
        self._lost = exc
        if self._client is not None and (exc is not None or not self._held):
            self._channel_closed()
        self._update()

    # What the client's socket does.

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
        if watch.mask == GONE:
            self.abort(Ending.CLIENT_RESET)
            return
        if event & (WRITE | GONE) and self._held:
            self._drain()
        if event & ~WRITE and watch.mask & READ and not self.ended.done():
            self._read()
        self._update()

    def _read(self) -> None:
        client, channel = self._client, self._channel
        if client is None or channel is None or self._closed:
            return
        try:
            data = client.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self.abort(Ending.CLIENT_RESET)
            return
        self.last_active = time.monotonic()
        if not data:
            self._client_done = True
            channel.write_eof()
            self._finish_if_done()
            return
        self._asked = self.last_active
        if self._tap is not None:
            self._tap.forth(memoryview(data), self.last_active)
        self.to_backend += len(data)
        try:
            channel.write(data)
        except BrokenPipeError:  # the backend closed, and what it said last is still on its way to the client
            self._client_done = True

    def _drain(self) -> None:
        client = self._client
        if client is None:
            return
        try:
            sent = client.send(self._held)
        except BlockingIOError:
            return
        except OSError:
            self.abort(Ending.CLIENT_RESET)
            return
        self.last_active = time.monotonic()
        del self._held[:sent]
        if self._held:
            return
        if self._closed:
            self._channel_closed()
        elif self._backend_done:
            self._pass_backend_end()
        elif self._channel is not None:
            self._channel.resume_reading()

    def _pass_backend_end(self) -> None:
        if self._client is not None:
            self._shut = True
            shut_write(self._client)
            self._finish_if_done()

    def _finish_if_done(self) -> None:
        if self._client_done and self._backend_done and not self._held and self._channel is not None:
            self._channel.close()

    def _channel_closed(self) -> None:
        """Nothing more comes: a clean end where the backend ended, a reset where the path broke."""
        if self.ended.done():
            return
        said_all = self._backend_done or (self._channel is not None and ended_by_peer(self._channel))
        clean = self._lost is None and said_all
        self._release(hard=not clean)
        broken = Ending.BACKEND_RESET if self._lost is None else Ending.LINK_LOST
        self.ended.set_result(Ending.FINISHED if clean else broken)

    def _update(self) -> None:
        if self._client is None or self.ended.done():
            return
        reading = not (self._client_done or self._channel_full or self._closed)
        if self._watch is not None:
            self._watch.want((READ if reading else 0) | (WRITE if self._held else 0), shut=self._shut)

    def _release(self, *, hard: bool) -> None:
        if self._client is None:
            return
        if self._watch is not None:
            self._watch.close()
        if hard:
            reset(self._client)
        else:
            finish(self._client)
        self._held.clear()


class StockChannels:
    """Opens asyncssh's own channels; see `gateway.ssh.session.Channels`.

    Args:
        conn: The SSH connection.
    """

    def __init__(self, conn: asyncssh.SSHClientConnection) -> None:
        self._conn = conn
        note_ends(conn)
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
        relay = StockRelay(latency, tap)
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
            opening.add_done_callback(_abort_late)  # also where it completes in this very turn
            raise
        if opening.done():
            opening.result()
            return relay
        opening.add_done_callback(_abort_late)
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


def _abort_late(opening: asyncio.Task[_Opened]) -> None:
    if opening.cancelled() or opening.exception() is not None:
        return
    channel, _ = opening.result()
    channel.abort()
