"""A relay between two sockets whose bytes the C engine moves."""

import socket

from gateway._dataplane.engine import ATTACH_MEASURE, ATTACH_UNIX, ATTACH_UNIX_BACKEND, RECORD_PAIR_ENDED
from gateway.measurement import Histogram, Tap
from gateway.relay.engine_host import Arguments, EngineHost
from gateway.relay.engine_relay import CLOSE_REASONS, EngineRelay
from gateway.relay.lingering_close import lingering_closer
from gateway.relay.poller import poller


class EnginePair(EngineRelay):
    """A relay between a client socket and a backend socket; implements `gateway.contracts.link.Relay`.

    Args:
        host: The host of the engine.
        client: The accepted socket, non-blocking. The engine owns it from now on.
        backend: The dialed socket, non-blocking. The engine owns it from now on.
        latency: The histogram for response latency.
        tap: Observes the bytes until the tap is finished.
    """

    __slots__ = ()

    def __init__(
        self, host: EngineHost, client: socket.socket, backend: socket.socket, latency: Histogram, tap: Tap | None
    ) -> None:
        super().__init__(host, latency, tap)
        self._histogram = host.histograms.acquire(latency)
        flags = ATTACH_MEASURE if self._measures else 0
        for sock, flag in ((client, ATTACH_UNIX), (backend, ATTACH_UNIX_BACKEND)):
            flags |= flag if sock.family == socket.AF_UNIX else 0
            poller().remove(sock.fileno())  # an earlier owner of the socket can have left it registered
        host.engine.pair(
            self._token, client.detach(), backend.detach(), self._histogram, flags, self._tap_mode
        )  # fmt: skip

    def on_record(self, kind: int, arguments: Arguments, payload: bytes) -> None:
        """See `EngineObject.on_record`."""
        if kind != RECORD_PAIR_ENDED:
            super().on_record(kind, arguments, payload)
            return
        self._release()
        reason, *lingering, _ = arguments
        for fd in lingering:
            if fd >= 0:
                lingering_closer().close_later(socket.socket(fileno=fd), reset_after=True)
        self._end(CLOSE_REASONS[reason])
