"""Defines stubs, through which the main process uses a worker's links, uplinks and forwards."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from gateway.app.worker.messages import ForwardReport, WorkerAction, WorkerCommand
from gateway.contracts.link import Stream
from gateway.contracts.phases import Phases
from gateway.contracts.states import CloseReason
from gateway.contracts.values import Endpoint
from gateway.measurement import Histogram, Tally
from gateway.ops.status_views import ConsumerView
from gateway.relay.sockets import tune

DialFromWorker = Callable[[Stream, str | None, Endpoint], Awaitable[None]]
"""Connects a socket to a target through a tunnel of a worker; see `WorkerSupervisor.dial`."""


class LinkStub:
    """Dials through a worker's link, for probes; implements `gateway.contracts.link.Connector`.

    Args:
        tunnel: The worker's tunnel; None for the direct link.
        dial: Opens a connection from inside the worker process.
    """

    def __init__(self, tunnel: str | None, dial: DialFromWorker) -> None:
        self._tunnel = tunnel
        self._dial = dial

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """Return one end of a socket pair, which the caller owns. The worker connects the other end to `to`."""
        ours, theirs = socket.socketpair()
        try:
            with (phases or Phases())("channel" if self._tunnel else "tcp"):
                await self._dial(theirs, self._tunnel, to)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        tune(ours)
        return ours


class UplinkStub:
    """Reports the state of a worker's uplink; implements `gateway.health.check.MonitoredUplink`.

    Args:
        tunnel: The tunnel; None for the direct link.
        dial: Opens a connection from inside the worker process.
        describe: Returns one line with the tunnel's state and the cause of that state.
    """

    def __init__(self, tunnel: str | None, dial: DialFromWorker, describe: Callable[[], str]) -> None:
        self.name = tunnel or "direct"
        self.link: LinkStub | None = None
        self.settled = asyncio.Event()
        self.watchers: list[Callable[[], None]] = []
        self.describe = describe
        self._tunnel = tunnel
        self._dial = dial

    def update(self, *, up: bool, settled: bool) -> None:
        """Apply the state that the worker reports."""
        if settled:
            self.settled.set()
        if up == (self.link is not None) and settled:
            return
        self.link = LinkStub(self._tunnel, self._dial) if up else None
        for watcher in self.watchers.copy():
            watcher()


class ForwardStub:
    """Controls a forward in a worker, and reports its counters. Has the interface of `Forward`.

    Args:
        name: The name of the backend.
        send: Sends a command to the worker.
    """

    def __init__(self, name: str, send: Callable[[WorkerCommand], None]) -> None:
        self.name = name
        self._send = send
        self.last = ForwardReport()
        self.fail_fast = False
        self._before = ForwardReport()

    @property
    def active(self) -> int:
        """Number of clients that are connected to a target or wait for one."""
        return self.last.active

    @property
    def waiting(self) -> int:
        """Number of clients that are not connected to a target yet."""
        return self.last.waiting

    @property
    def accepted(self) -> int:
        """Number of clients since the start, in all processes of this worker."""
        return self._before.accepted + self.last.accepted

    @property
    def rejected(self) -> Tally:
        """Number of refused clients by reason."""
        return Tally(self._before.rejected) + Tally(self.last.rejected)

    @property
    def resets(self) -> Tally:
        """Number of connections that ended in a reset, by reason."""
        return Tally(self._before.resets) + Tally(self.last.resets)

    @property
    def to_backend(self) -> int:
        """Bytes sent to the backend."""
        return self._before.to_backend + self.last.to_backend

    @property
    def from_backend(self) -> int:
        """Bytes sent to clients."""
        return self._before.from_backend + self.last.from_backend

    @property
    def latency(self) -> Histogram:
        """Response latency of real traffic."""
        return self._before.latency.plus(self.last.latency)

    def set_fail_fast(self, *, enabled: bool) -> None:
        """Set whether to reset clients while the uplink is down, including clients that already wait."""
        self.fail_fast = enabled
        self._send(WorkerCommand(WorkerAction.SET_FAIL_FAST, (self.name, enabled)))

    @property
    def consumers(self) -> dict[str, ConsumerView]:
        """The use of each consumer since the current process of the worker started."""
        return self.last.consumers

    def worker_lost(self) -> None:
        """Count the connections that were reset when the worker's process ended, and keep the other counters."""
        resets = self.resets
        resets[CloseReason.ABORTED] += self.last.active
        self._before = ForwardReport(
            accepted=self.accepted, rejected=dict(self.rejected), resets=dict(resets),
            to_backend=self.to_backend, from_backend=self.from_backend, latency=self.latency,
        )  # fmt: skip
        self.last = ForwardReport()
