"""Records the phases of a client connection, and defines the interface of the exporter that sends them as a span."""

import time
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gateway.contracts.config_types import HostPort

_MAX_PHASES = 64
"""Maximum number of recorded phases of one connection. A client can wait for minutes, and each dial adds phases."""
HOLD = "hold"
"""Phase in which the client waits for an open tunnel."""
DIAL = "dial"
"""Phase before each connection attempt: the gateway chooses a target, or waits until it can start the attempt."""
CHANNEL = "channel"
"""Phase in which the gateway opens the SSH channel or the connection to the target."""


class TracedPhase(NamedTuple):
    """One phase of connecting a client to a target.

    Args:
        name: `HOLD`, `DIAL` or `CHANNEL`.
        began: The beginning, in nanoseconds since the epoch.
        ended: The end, in nanoseconds since the epoch.
    """

    name: str
    began: int
    ended: int


class ConnectionPhaseRecorder:
    """Records the time at which a client was accepted, and each phase until the client is connected to a target.

    All times are in nanoseconds since the epoch. They are derived from the monotonic clock, so that a change of the
    system time during the connection has no effect on them.
    """

    __slots__ = ("_began", "_name", "_offset", "accepted", "phases")

    def __init__(self) -> None:
        self.accepted = time.time_ns()
        self.phases: list[TracedPhase] = []
        self._offset = self.accepted - time.monotonic_ns()
        self._name = ""
        self._began = 0

    @property
    def now(self) -> int:
        """The current time, in nanoseconds since the epoch, derived from the monotonic clock."""
        return time.monotonic_ns() + self._offset

    def enter(self, name: str) -> None:
        """End the current phase, and begin the next one.

        Args:
            name: The name of the phase; empty if no phase follows.
        """
        now = self.now
        if self._name and len(self.phases) < _MAX_PHASES:
            self.phases.append(TracedPhase(self._name, self._began, now))
        self._name, self._began = name, now


@dataclass(frozen=True)
class ConnectionSpanData:
    """A client connection that has ended, with the data for its span.

    Args:
        trace: The times of the connection. All phases have ended.
        ended: The end of the connection, in nanoseconds since the epoch.
        backend: The name of the backend.
        ending: How the connection ended: a `CloseReason`, `not_connected` or `refused`.
        reason: Why the client was refused, or could not be connected to a target. None if it was connected.
        tunnel: The name of the tunnel to the target. None if the connection was direct, or if `target` is None.
        target: The target; None if the client was not connected to a target.
        client: The IP address of the client; None if it is not known.
        consumer: The client's container or application; None if it is not known.
        to_backend: Number of bytes that the client sent.
        from_backend: Number of bytes sent to the client.
    """

    trace: ConnectionPhaseRecorder
    ended: int
    backend: str
    ending: str
    reason: str | None = None
    tunnel: str | None = None
    target: HostPort | None = None
    client: str | None = None
    consumer: str | None = None
    to_backend: int = 0
    from_backend: int = 0


class TraceExporter(Protocol):
    """Defines the interface of exporters, which send the span of each ended client connection to a collector."""

    def export(self, connection: ConnectionSpanData) -> None:
        """Queue the span of a connection, or drop it if the collector is too slow. Return immediately."""

    async def close(self) -> None:
        """Send the queued spans within a deadline, and stop."""
