"""Opens and controls an SSH channel whose bytes the native engine relays, and reads the channel's counters."""

import asyncio
import socket
from collections.abc import Callable

import asyncssh

from gateway._dataplane.engine import ATTACH_MEASURE, ATTACH_UNIX, RECORD_ENDED, RECORD_OPENED, RECORD_REFUSED
from gateway.connection_tap import Tap
from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.relay.fd_poller import poller
from gateway.relay.lingering_close import lingering_closer
from gateway.relay.native_engine_runner import Arguments, NativeEngineRunner
from gateway.relay.native_relay_base import CLOSE_REASONS, NativeRelayBase
from gateway.relay.sockets import reset
from gateway.ssh.flow_control import INITIAL_BUDGET, ByteBudget, ReceiveWindow

_IN_ENGINE = ReceiveWindow(ByteBudget(0))
"""Placeholder for the receive window of a channel that the native engine has opened itself. The native engine manages
the real window."""


class NativeChannel(NativeRelayBase):
    """A channel whose bytes the native engine relays; implements `gateway.contracts.relay.Relay`.

    Args:
        runner: Runs the native engine.
        latency: The histogram for response latency.
        tap: Observes the relayed bytes until `tap.finished` is true; None if the relay has no tap.
        on_answered: Called with this channel when the server replies to CHANNEL_OPEN, or when no reply can arrive,
            for example because the SSH connection is lost. A timeout does not cause this call.
        joined: The native engine's token for the channel, if the native engine has already opened the channel for a
            client; None to open a new channel.
    """

    __slots__ = ("_on_answered", "opened", "window")

    def __init__(
        self,
        runner: NativeEngineRunner,
        latency: Histogram,
        tap: Tap | None,
        on_answered: Callable[["NativeChannel"], None],
        joined: int | None = None,
    ) -> None:
        super().__init__(runner, latency, tap, joined)
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Completes when the channel is open. If the channel cannot be opened, the future fails with the reason."""
        self.window = ReceiveWindow(INITIAL_BUDGET) if joined is None else _IN_ENGINE
        self._on_answered = on_answered
        if joined is not None:
            self._histogram = runner.histograms.acquire(latency)
            self.opened.set_result(None)

    @property
    def buffered(self) -> int:
        """See `gateway.ssh.channel_interfaces.SshChannel`."""
        return self._gauge()[5]

    @property
    def cut_short(self) -> bool:
        """See `gateway.ssh.channel_interfaces.SshChannel`."""
        return not self._gauge()[6]

    # `NativeChannelOpener` and `PooledConnection` call the methods below.

    def request(self, connection_token: int, max_packet: int, head: bytes, rest: bytes) -> None:
        """Send CHANNEL_OPEN. The future `opened` gets the result.

        Args:
            connection_token: The native engine's token for the SSH connection.
            max_packet: The maximum size of received packets, in bytes.
            head: The channel type, as an SSH string (RFC 4251, section 5).
            rest: The part of CHANNEL_OPEN after the field `maximum packet size` (RFC 4254, section 5.1).
        """
        self._runner.engine.channel(
            self._token, connection_token, self.window.size, max_packet, self._tap_mode, head, rest
        )

    def fail_open(self, error: Exception) -> None:
        """Make the pending CHANNEL_OPEN request fail with `error`. If the channel opens later, close it."""
        if not self.opened.done():
            self.opened.set_exception(error)

    def attach(self, client: socket.socket) -> None:
        """See `gateway.ssh.channel_interfaces.SshChannel`. The native engine owns the socket from now on."""
        if self.ended.done():
            reset(client)
            return
        flags = ATTACH_UNIX if client.family == socket.AF_UNIX else 0
        if self._measures:
            flags |= ATTACH_MEASURE
        self._histogram = self._runner.histograms.acquire(self._latency)
        # A previous owner might have registered the socket with the poller. From now on, only the native engine
        # handles the socket.
        poller().remove(client.fileno())
        self._runner.engine.attach(self._token, client.detach(), self._histogram, flags)

    def abort(self, close_reason: CloseReason) -> None:
        """See `gateway.contracts.relay.Relay`. If the channel is not open yet, it is closed when it opens."""
        if self.ended.done():
            return
        super().abort(close_reason)
        if not self.opened.done() or self.opened.cancelled() or self.opened.exception() is not None:
            self._end(close_reason)

    # `NativeEngineRunner` calls the methods below, except `_end`.

    def on_record(self, kind: int, arguments: Arguments, payload: bytes) -> None:
        """See `NativeEventHandler.on_record`."""
        if kind == RECORD_OPENED:
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
            self._end(CLOSE_REASONS[reason])
        else:
            super().on_record(kind, arguments, payload)

    def on_native_engine_failed(self) -> None:
        """See `NativeEventHandler.on_native_engine_failed`."""
        self._on_answered(self)
        self.fail_open(asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the data plane failed"))
        super().on_native_engine_failed()

    def _end(self, close_reason: CloseReason) -> None:
        self.window.close()
        super()._end(close_reason)
