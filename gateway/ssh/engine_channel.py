"""Opens and controls a channel whose bytes the C engine relays, and reads the channel's counters."""

import asyncio
import socket
from collections.abc import Callable

import asyncssh

from gateway._dataplane.engine import (
    ATTACH_MEASURE,
    ATTACH_UNIX,
    COMMAND_ABORT,
    COMMAND_UNTAP,
    RECORD_ENDED,
    RECORD_OPENED,
    RECORD_REFUSED,
    RECORD_RPC,
    RECORD_TAP,
    TAP_BYTES,
    TAP_NONE,
    TAP_RPC,
)
from gateway.contracts.states import CloseReason
from gateway.measurement import Histogram, Tap, waiting_since
from gateway.relay.lingering_close import lingering_closer
from gateway.relay.poller import poller
from gateway.relay.sockets import reset
from gateway.ssh.engine_host import Arguments, EngineHost
from gateway.ssh.flow_control import INITIAL_BUDGET, ByteBudget, ReceiveWindow

_IN_ENGINE = ReceiveWindow(ByteBudget(0))
"""The window of each channel that the engine has opened. It takes no bytes from the budget for initial windows."""
_REASONS = (
    CloseReason.FINISHED, CloseReason.CLIENT_RESET, CloseReason.LINK_LOST, CloseReason.ABORTED, CloseReason.MOVED,
)  # fmt: skip
"""Close reasons in the order of `enum close_reason` in `engine.h`."""

Gauge = tuple[int, int, int, float, float, int, bool]
"""The counters and times of a channel; see `Engine.gauge`."""
_UNKNOWN: Gauge = (0, 0, 0, 0.0, 0.0, 0, False)


class EngineChannel:
    """A channel whose bytes the C engine relays; implements `gateway.contracts.link.Relay`.

    Args:
        host: The host of the engine.
        latency: The histogram for response latency.
        tap: Observes the bytes until the tap is finished.
        on_answered: Called when CHANNEL_OPEN has a reply, or when the connection is lost.
        joined: The token of a channel that the engine has opened and joined to a client; None for a new channel.
    """

    __slots__ = (
        "_final", "_histogram", "_host", "_latency", "_on_answered", "_tap", "_token", "ended", "opened",
        "window",
    )  # fmt: skip

    def __init__(
        self,
        host: EngineHost,
        latency: Histogram,
        tap: Tap | None,
        on_answered: Callable[["EngineChannel"], None],
        joined: int | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        """Result of the channel open."""
        self.ended: asyncio.Future[CloseReason] = loop.create_future()
        self.window = ReceiveWindow(INITIAL_BUDGET) if joined is None else _IN_ENGINE
        self._host = host
        self._latency = latency
        self._tap = tap
        self._on_answered = on_answered
        self._histogram: int | None = None
        self._final: Gauge | None = None
        """The last counters and times, if the token is no longer valid; otherwise None."""
        self._token = host.add(self, joined)
        if joined is not None:
            self._histogram = host.histograms.acquire(latency)
            self.opened.set_result(None)

    # Counters and times, which the engine updates.

    def _gauge(self) -> Gauge:
        return self._host.engine.gauge(self._token) if self._final is None else self._final

    @property
    def to_backend(self) -> int:
        """Number of bytes read from the client. See `gateway.contracts.link.Relay`."""
        return self._gauge()[0]

    @property
    def from_backend(self) -> int:
        """Number of bytes read from the backend. See `gateway.contracts.link.Relay`."""
        return self._gauge()[1]

    @property
    def responses(self) -> int:
        """Number of times that the backend responded after the client had sent data."""
        return self._gauge()[2]

    @property
    def last_active(self) -> float:
        """Monotonic time of the last activity on either side, in seconds. See `gateway.contracts.link.Relay`."""
        return self._gauge()[3]

    @property
    def awaiting_response(self) -> bool:
        """Whether the client was the last side to send data, and so probably waits for a response."""
        return self._gauge()[4] > 0

    @property
    def waiting_since(self) -> float | None:
        """Monotonic time since which the client has waited for a response; None if it does not wait or if unknown."""
        return waiting_since(self._tap, self._gauge()[4])

    @property
    def buffered(self) -> int:
        """Number of bytes that the client's socket has not accepted yet."""
        return self._gauge()[5]

    @property
    def cut_short(self) -> bool:
        """Whether the client did not get the end of the backend's stream.

        The value is final as soon as the client's stream has ended, even if the engine has not sent its last record.
        """
        return not self._gauge()[6]

    def inspect(self) -> dict[str, int]:
        """Return the internal state of the channel, for tests; empty if the channel has ended."""
        return (self._host.engine.inspect(self._token) or {}) if self._final is None else {}

    # The opener and the pool call these methods.

    def request(self, wire: int, max_packet: int, head: bytes, rest: bytes) -> None:
        """Send CHANNEL_OPEN. The future `opened` gets the result.

        Args:
            wire: The token of the SSH connection.
            max_packet: The maximum size of received packets, in bytes.
            head: The channel type.
            rest: The bytes of CHANNEL_OPEN after the maximum packet size.
        """
        tap = TAP_NONE if self._tap is None else TAP_BYTES if self._tap.tracker is None else TAP_RPC
        self._host.engine.channel(self._token, wire, self.window.size, max_packet, tap, head, rest)

    def fail_open(self, error: Exception) -> None:
        """Make the pending channel open fail with `error`. If the channel opens later, it is closed immediately."""
        if not self.opened.done():
            self.opened.set_exception(error)

    def attach(self, client: socket.socket) -> None:
        """Start relaying for `client`, after the channel has opened. The engine owns the socket from now on."""
        if self.ended.done():
            reset(client)
            return
        tap = self._tap
        flags = ATTACH_UNIX if client.family == socket.AF_UNIX else 0
        if tap is None or tap.tracker is None:
            flags |= ATTACH_MEASURE
        self._histogram = self._host.histograms.acquire(self._latency)
        poller().remove(client.fileno())  # an earlier owner of the socket can have left it registered
        self._host.engine.attach(self._token, client.detach(), self._histogram, flags)

    def abort(self, close_reason: CloseReason) -> None:
        """See `gateway.contracts.link.Relay`. If the channel is not open yet, it is closed when it opens."""
        if self.ended.done():
            return
        if self._final is None:
            self._host.command(COMMAND_ABORT, self._token, _REASONS.index(close_reason))
        if not self.opened.done() or self.opened.cancelled() or self.opened.exception() is not None:
            self._end(close_reason)

    # The engine's host calls this method.

    def on_record(self, kind: int, arguments: Arguments, payload: bytes) -> None:
        """See `EngineObject.on_record`."""
        if kind == RECORD_TAP:
            self._feed_tap(arguments[1] / 1e9, payload, from_backend=bool(arguments[0]))
        elif kind == RECORD_RPC:
            if self._tap is not None and self._tap.tracker is not None:
                from_backend, now, xid, rpc_type = arguments
                self._tap.tracker.on_message(xid, rpc_type, now / 1e9, from_backend=bool(from_backend))
        elif kind == RECORD_OPENED:
            self._on_answered(self)
            if not self.opened.done():
                self.opened.set_result(None)
        elif kind == RECORD_REFUSED:
            self._on_answered(self)
            self._release()
            self.fail_open(asyncssh.ChannelOpenError(arguments[0], payload.decode("utf-8", "replace")))
        elif kind == RECORD_ENDED:
            self._release()
            reason, fd, reset_after, _ = arguments
            if fd >= 0:
                lingering_closer().close_later(socket.socket(fileno=fd), reset_after=bool(reset_after))
            self._end(_REASONS[reason])

    def on_engine_failed(self) -> None:
        """See `EngineObject.on_engine_failed`."""
        self._final, self._histogram = _UNKNOWN, None
        self._on_answered(self)
        self.fail_open(asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the data plane failed"))
        self._end(CloseReason.LINK_LOST)

    def _feed_tap(self, now: float, data: bytes, *, from_backend: bool) -> None:
        tap = self._tap
        if tap is None:
            return
        with memoryview(data) as view:
            (tap.on_response if from_backend else tap.on_request)(view, now)
        if tap.finished:
            self._tap = None
            self._host.command(COMMAND_UNTAP, self._token)

    def _release(self) -> None:
        """Store the final counters and times, and free the token, because the engine has sent the last record."""
        self._final = self._gauge()
        self._host.forget(self._token)
        if self._histogram is not None:
            self._host.histograms.release(self._histogram)
            self._histogram = None

    def _end(self, close_reason: CloseReason) -> None:
        self.window.close()
        if not self.ended.done():
            self.ended.set_result(close_reason)
