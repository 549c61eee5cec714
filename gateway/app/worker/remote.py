"""Proxies in the owner for the links, uplinks and forwards of a worker."""

import asyncio
import socket
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from gateway.app.worker.messages import Command, ForwardReport, UsageReport
from gateway.contracts import LOCAL_NETWORK, CloseReason, Endpoint, Link, Phases, Stream
from gateway.forwarding.listener import Listener
from gateway.measure import Histogram, Tally, Tap
from gateway.relay.sockets import tune

if TYPE_CHECKING:
    from gateway.app.worker.unit import WorkerUnit


class RemoteRelay:
    """A connection that a worker carries; see `gateway.contracts.Relay`."""

    awaiting_response = False
    waiting_since: float | None = None
    to_backend = from_backend = responses = 0
    last_active = 0.0

    def __init__(self) -> None:
        self.ended: asyncio.Future[CloseReason] = asyncio.get_running_loop().create_future()

    def abort(self, reason: CloseReason) -> None:
        """Set `ended`. The worker's connection ends with its client."""
        if not self.ended.done():
            self.ended.set_result(reason)


class RemoteLink:
    """A worker's link, for probes; see `gateway.contracts.Link`.

    Args:
        worker: The worker.
        tunnel: Its tunnel; None: the direct link.
    """

    def __init__(self, worker: "WorkerUnit", tunnel: str | None) -> None:
        self._worker = worker
        self._tunnel = tunnel
        self.dial_phase = "channel" if tunnel else "tcp"
        self.network_id = tunnel or LOCAL_NETWORK

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """Return one end of a socket pair whose other end the worker joins to `to`. The caller owns it."""
        ours, theirs = socket.socketpair()
        try:
            with (phases or Phases())(self.dial_phase):
                await self._worker.dial(theirs, self._tunnel, to)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        tune(ours)
        return ours

    async def join(
        self, client: Stream, to: Endpoint, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> RemoteRelay:
        """Send `client` to the worker, which joins it to `to`."""
        del latency, within, tap
        await self._worker.dial(client, self._tunnel, to)
        client.close()
        return RemoteRelay()

    async def lost(self) -> str:
        """Not used: `RemotePath` reports the loss of the link."""
        raise NotImplementedError

    def renew(self) -> None:
        """Not used: the worker's own uplink renews its link."""
        raise NotImplementedError

    def rtt(self) -> float | None:
        """Return the round trip time in seconds that the worker measured."""
        return self._worker.uplink(self._tunnel).rtt

    def details(self) -> dict[str, object]:
        """Return the details that the worker reported."""
        return self._worker.uplink(self._tunnel).details


class RemotePath:
    """Proxy for a worker's uplink; see `gateway.health.monitor.MonitoredUplink`.

    Args:
        worker: The worker.
        tunnel: The tunnel; None: the direct link.
    """

    def __init__(self, worker: "WorkerUnit", tunnel: str | None) -> None:
        self.name = tunnel or "direct"
        self.link: Link | None = None
        self.settled = asyncio.Event()
        self.watchers: list[Callable[[], None]] = []
        self._worker = worker
        self._tunnel = tunnel

    def describe(self) -> str:
        """Return the state of the worker's uplink and its cause in one line."""
        if not self._worker.running:
            return f"worker {self._worker.number} is being started"
        return self._worker.uplink(self._tunnel).described

    def update(self, *, up: bool, settled: bool) -> None:
        """Apply the state that the worker reports."""
        if settled:
            self.settled.set()
        if up == (self.link is not None) and settled:
            return
        self.link = RemoteLink(self._worker, self._tunnel) if up else None
        for watcher in self.watchers.copy():
            watcher()


class RemoteForward:
    """Proxy for a forward in a worker, with the counters of `Forward`.

    Args:
        name: The name of the backend.
        worker: The worker that serves it.
    """

    def __init__(self, name: str, worker: "WorkerUnit") -> None:
        self.name = name
        self.worker = worker
        self.last = ForwardReport()
        self.listeners: list[Listener] = []
        self.fail_fast = False
        self._before = ForwardReport()

    @property
    def active(self) -> int:
        """Number of clients that are joined or waiting."""
        return self.last.active

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
        """Set whether to reset clients, including clients that wait already, while the uplink is down."""
        self.fail_fast = enabled
        self.worker.send(Command("set_fail_fast", (self.name, enabled)))

    def used(self) -> dict[str, UsageReport]:
        """Return the use of each consumer since the current process of the worker started."""
        return self.last.consumers

    def worker_lost(self) -> None:
        """Count the connections that ended with the worker's process, and keep the other counters."""
        resets = self.resets
        resets[CloseReason.ABORTED] += self.last.active
        self._before = ForwardReport(
            accepted=self.accepted, rejected=dict(self.rejected), resets=dict(resets),
            to_backend=self.to_backend, from_backend=self.from_backend, latency=self.latency,
        )  # fmt: skip
        self.last = ForwardReport()

    def active_on(self, path: object) -> int:
        """Return 0, because the clients use the worker's uplinks."""
        del path
        return 0
