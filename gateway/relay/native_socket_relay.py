"""Relays bytes between two sockets in the native engine. `socket_relay` does the same in the event loop."""

import socket

from gateway._dataplane.engine import ATTACH_MEASURE, ATTACH_UNIX, ATTACH_UNIX_BACKEND, RECORD_PAIR_ENDED
from gateway.connection_tap import Tap
from gateway.metric_types import Histogram
from gateway.relay.fd_poller import poller
from gateway.relay.lingering_close import lingering_closer
from gateway.relay.native_engine_runner import Arguments, NativeEngineRunner
from gateway.relay.native_relay_base import CLOSE_REASONS, NativeRelayBase


class NativeSocketRelay(NativeRelayBase):
    """Relays bytes between a client socket and a backend socket; implements `gateway.contracts.relay.Relay`.

    Args:
        runner: Runs the native engine.
        latency: The histogram for response latency.
        tap: Observes the relayed bytes until `tap.finished` is true. None if the connection has no tap.
        joined: The token of a relay that the native engine has already started; None for a new relay.
    """

    __slots__ = ()

    def __init__(
        self, runner: NativeEngineRunner, latency: Histogram, tap: Tap | None, joined: int | None = None
    ) -> None:
        super().__init__(runner, latency, tap, joined)
        if joined is not None:
            self._histogram = runner.histograms.acquire(latency)

    def start(self, client: socket.socket, backend: socket.socket) -> None:
        """Start the relay. The native engine takes ownership of both sockets.

        Args:
            client: The accepted socket, non-blocking.
            backend: The dialed socket, non-blocking.
        """
        flags = ATTACH_MEASURE if self._measures else 0
        for sock, flag in ((client, ATTACH_UNIX), (backend, ATTACH_UNIX_BACKEND)):
            flags |= flag if sock.family == socket.AF_UNIX else 0
            poller().remove(sock.fileno())  # the event loop may still poll this socket
        self._histogram = self._runner.histograms.acquire(self._latency)
        self._runner.engine.pair(
            self._token, client.detach(), backend.detach(), self._histogram, flags, self._tap_mode
        )  # fmt: skip

    def on_record(self, kind: int, arguments: Arguments, payload: bytes) -> None:
        """See `NativeEventHandler.on_record`."""
        if kind != RECORD_PAIR_ENDED:
            super().on_record(kind, arguments, payload)
            return
        self._release()
        reason, *lingering, _ = arguments
        for fd in lingering:
            if fd >= 0:
                lingering_closer().close_later(socket.socket(fileno=fd), reset_after=True)
        self._end(CLOSE_REASONS[reason])
