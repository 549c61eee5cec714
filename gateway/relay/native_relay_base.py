"""Defines the base class of relays that the native engine runs and that Python code controls."""

import asyncio

from gateway._dataplane.engine import (
    COMMAND_ABORT,
    COMMAND_UNTAP,
    RECORD_RPC,
    RECORD_TAP,
    TAP_BYTES,
    TAP_NONE,
    TAP_RPC,
)
from gateway.connection_tap import Tap, waiting_since
from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.relay.native_engine_runner import Arguments, NativeEngineRunner

CLOSE_REASONS = (
    CloseReason.FINISHED, CloseReason.CLIENT_RESET, CloseReason.LINK_LOST, CloseReason.ABORTED, CloseReason.MOVED,
    CloseReason.BACKEND_RESET,
)  # fmt: skip
"""Close reasons in the order of `enum close_reason` in `engine.h`."""

Gauge = tuple[int, int, int, float, float, int, bool]
"""The counters and times of an SSH channel, or of a relay between two sockets. See `Engine.gauge`."""
_UNKNOWN: Gauge = (0, 0, 0, 0.0, 0.0, 0, False)


class NativeRelayBase:
    """The base class of relays that the native engine runs and that Python code controls.

    Implements `gateway.contracts.relay.Relay`.

    Args:
        runner: Runs the native engine.
        latency: The histogram for response latency.
        tap: Observes the relayed bytes until `tap.finished` is true. None if the connection has no tap.
        token: The token of a channel or socket relay that the native engine has created. None for a new token.
    """

    __slots__ = ("_final", "_histogram", "_latency", "_runner", "_tap", "_token", "ended")

    def __init__(
        self, runner: NativeEngineRunner, latency: Histogram, tap: Tap | None, token: int | None = None
    ) -> None:
        self.ended: asyncio.Future[CloseReason] = asyncio.get_running_loop().create_future()
        self._runner = runner
        self._latency = latency
        self._tap = tap
        self._histogram: int | None = None
        self._final: Gauge | None = None
        """The final counters and times of the relay. None until the native engine ends the relay, or fails."""
        self._token = runner.add(self, token)

    # The properties below return counters and times that the native engine updates.

    def _gauge(self) -> Gauge:
        return self._runner.engine.gauge(self._token) if self._final is None else self._final

    @property
    def to_backend(self) -> int:
        """See `gateway.contracts.relay.Relay`."""
        return self._gauge()[0]

    @property
    def from_backend(self) -> int:
        """See `gateway.contracts.relay.Relay`."""
        return self._gauge()[1]

    @property
    def responses(self) -> int:
        """See `gateway.contracts.relay.Relay`."""
        return self._gauge()[2]

    @property
    def last_active(self) -> float:
        """See `gateway.contracts.relay.Relay`."""
        return self._gauge()[3]

    @property
    def awaiting_response(self) -> bool:
        """See `gateway.contracts.relay.Relay`."""
        return self._gauge()[4] > 0

    @property
    def waiting_since(self) -> float | None:
        """See `gateway.contracts.relay.Relay`."""
        return waiting_since(self._tap, self._gauge()[4])

    def inspect(self) -> dict[str, int]:
        """Return the internal state of the relay, for tests; empty if the relay has ended."""
        return (self._runner.engine.inspect(self._token) or {}) if self._final is None else {}

    def abort(self, close_reason: CloseReason) -> None:
        """See `gateway.contracts.relay.Relay`."""
        if self._final is None and not self.ended.done():
            self._runner.command(COMMAND_ABORT, self._token, CLOSE_REASONS.index(close_reason))

    # The native engine's runner calls the following methods.

    def on_record(self, kind: int, arguments: Arguments, payload: bytes) -> None:
        """See `NativeEventHandler.on_record`. Handles the records for the tap."""
        if kind == RECORD_TAP:
            self._feed_tap(arguments[1] / 1e9, payload, from_backend=bool(arguments[0]))
        elif kind == RECORD_RPC and self._tap is not None and self._tap.tracker is not None:
            from_backend, now, xid, rpc_type = arguments
            self._tap.tracker.on_message(xid, rpc_type, now / 1e9, from_backend=bool(from_backend))

    def on_native_engine_failed(self) -> None:
        """See `NativeEventHandler.on_native_engine_failed`."""
        self._final, self._histogram = _UNKNOWN, None
        self._end(CloseReason.LINK_LOST)

    # Subclasses use the following methods.

    @property
    def _tap_mode(self) -> int:
        return TAP_NONE if self._tap is None else TAP_BYTES if self._tap.tracker is None else TAP_RPC

    @property
    def _measures(self) -> bool:
        """Whether the native engine measures the response latency. If not, the tap measures it."""
        return self._tap is None or self._tap.tracker is None

    def _feed_tap(self, now: float, data: bytes, *, from_backend: bool) -> None:
        tap = self._tap
        if tap is None:
            return
        with memoryview(data) as view:
            (tap.on_response if from_backend else tap.on_request)(view, now)
        if tap.finished:
            self._tap = None
            self._runner.command(COMMAND_UNTAP, self._token)

    def _release(self) -> None:
        """Store the final counters and times, and release the relay's token.

        Subclasses call this method when the native engine's last record for the relay arrives.
        """
        self._final = self._gauge()
        self._runner.forget(self._token)
        if self._histogram is not None:
            self._runner.histograms.release(self._histogram)
            self._histogram = None

    def _end(self, close_reason: CloseReason) -> None:
        if not self.ended.done():
            self.ended.set_result(close_reason)
