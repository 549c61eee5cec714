"""Starts the process of one worker, and exchanges messages with it. Runs in the main process."""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gateway.app.worker.messages import (
    NO_UPLINK,
    ApplyConfig,
    AuditEvents,
    ConfigApplied,
    ConsumerSnapshot,
    DescriptorsLost,
    DialRequest,
    DialResult,
    ListeningSockets,
    TargetAssignment,
    TrafficFailure,
    UnknownSource,
    UplinkReport,
    WorkerAction,
    WorkerCommand,
    WorkerReport,
)
from gateway.app.worker.messenger import Messenger
from gateway.app.worker.stubs import ForwardStub, UplinkStub
from gateway.audit_log.recorder import AuditRecorder
from gateway.config import Config
from gateway.contracts.link import Stream
from gateway.contracts.states import TunnelState
from gateway.contracts.values import Endpoint
from gateway.docker.consumers import Consumer
from gateway.errors import DialError, GatewayError, LinkLostError, Reason
from gateway.forwarding.listener import Listener

log = logging.getLogger(__name__)

_STOP_TIMEOUT = 3.0
_KILL_TIMEOUT = 2.0
_SEND_AGAIN = 1.0
_REAP_POLL = 0.02
_POLL = 1.0
_SILENCE = 15.0
"""Seconds without a report after which the owner replaces a worker. A worker sends four reports per second."""


class WorkerLostError(GatewayError):
    """A worker process ended unexpectedly. The supervisor starts another one."""


class WorkerSupervisor:
    """Starts and restarts one worker process; implements `gateway.contracts.component.Component`.

    Args:
        number: The number of the worker, from 1.
        on_failure: Called with the backend, the target, and whether traffic stalled (True) or failed (False).
        recorder: Records when connections of the worker's clients end; None to record nothing.
    """

    def __init__(
        self, number: int, on_failure: Callable[[str, Endpoint, bool], None], recorder: AuditRecorder | None = None
    ) -> None:
        self.number = number
        self.forwards: dict[str, ForwardStub] = {}
        self.report = WorkerReport({}, {})
        self._on_failure = on_failure
        self._recorder = recorder or AuditRecorder()
        self._unrecorded = 0
        """Number of the worker's clients for which the audit log has no closing event yet."""
        self._paths: dict[str | None, UplinkStub] = {}
        self._config: Config | None = None
        self._listeners: dict[Endpoint, Listener] = {}
        self._assignments: dict[str, TargetAssignment] = {}
        self._messenger: Messenger | None = None
        self._dials: dict[int, asyncio.Future[None]] = {}
        self._numbers = itertools.count()
        self._pid: int | None = None
        self._last_report = 0.0
        self._before: dict[str, UplinkReport] = {}
        self._consumers: ConsumerSnapshot | None = None
        self._sent = 0
        self._applied = asyncio.Event()
        """Set while the process runs the configuration that the owner sent last."""
        self.on_unknown_source: Callable[[], None] = lambda: None
        """Called when a client has a source address that the worker does not know."""
        self.on_report: Callable[[], None] = lambda: None
        """Called after each report of the worker, and after its process has ended."""

    @property
    def running(self) -> bool:
        """Whether the process runs and receives messages."""
        return self._messenger is not None

    @property
    def pid(self) -> int | None:
        """The ID of the process."""
        return self._pid

    async def run(self, ready: Callable[[], None]) -> None:
        """Start the process, and keep it running until cancelled.

        Raises:
            WorkerLostError: The process ended, or has sent no report for too long.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        child = subprocess.Popen(  # noqa: ASYNC220, S603 - starting a process takes little time, and the program is this one
            [sys.executable, "-m", "gateway.app.worker_process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._pid = child.pid
        ended = asyncio.Event()
        self._messenger = Messenger(ours, self._on_message, ended.set)
        loop = asyncio.get_running_loop()
        self._last_report = loop.time()
        try:
            self._send_all()
            ready()
            while not ended.is_set() and loop.time() - self._last_report < _SILENCE:
                began = loop.time()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), _POLL)
                # Do not count the time in which this process was suspended: it could not receive reports.
                self._last_report += max(0.0, loop.time() - began - _POLL)
            raise WorkerLostError(
                f"worker {self.number} (process {child.pid}) has ended or does not respond: its clients are reset"
            )
        finally:
            messenger, self._messenger = self._messenger, None
            messenger.send(WorkerCommand(WorkerAction.STOP))
            self._applied.set()  # the next process gets the configuration when it starts
            self._on_process_lost()
            try:
                await _reap(child)  # before the process exits, it sends its remaining audit events
            finally:
                messenger.close()
                self._record_loss()

    def apply(self, config: Config, listeners: dict[Endpoint, Listener]) -> None:
        """Send a configuration to the worker, which then serves the backends in it."""
        self._config, self._listeners = config, listeners
        for name in config.backends:
            self.forwards.setdefault(name, ForwardStub(name, self.send))
        self.forwards = {name: self.forwards[name] for name in config.backends}
        self._assignments = {
            name: assignment
            for name, assignment in self._assignments.items()
            if name in config.backends and set(assignment.targets) <= set(config.backends[name].targets)
        }
        self._send_all()

    async def settled(self) -> None:
        """Wait until the process has applied its configuration. Return immediately if no process runs."""
        if self.running:
            await self._applied.wait()

    def assign_targets(self, assignment: TargetAssignment) -> None:
        """Send the targets for the clients of a backend."""
        if self._assignments.get(assignment.backend) != assignment:
            self._assignments[assignment.backend] = assignment
            self.send(assignment)

    def set_consumers(self, consumers: dict[str, Consumer]) -> None:
        """Replace the consumers by address."""
        if self._consumers is None or self._consumers.consumers != consumers:
            self._consumers = ConsumerSnapshot(consumers)
            self.send(self._consumers)

    def path(self, tunnel: str | None) -> UplinkStub:
        """Return the stub for one of the worker's uplinks."""
        return self._paths.setdefault(tunnel, UplinkStub(tunnel, self.dial, lambda: self._describe(tunnel)))

    def _describe(self, tunnel: str | None) -> str:
        return self.uplink(tunnel).described if self.running else f"worker {self.number} is being started"

    def uplink(self, tunnel: str | None) -> UplinkReport:
        """Return the last report about one of the worker's uplinks."""
        return self.report.uplinks.get(tunnel or "", NO_UPLINK)

    def uplink_total(self, tunnel: str) -> UplinkReport:
        """Return the last report about a tunnel, plus the counters of this worker's earlier processes."""
        now, before = self.report.uplinks[tunnel], self._before.get(tunnel, NO_UPLINK)
        return replace(
            now,
            connects=now.connects + before.connects,
            failures=dict(Counter(now.failures) + Counter(before.failures)),
            channel_open=now.channel_open.plus(before.channel_open),
        )

    def send(self, message: Any, fds: list[int] | None = None) -> None:
        """Send a message if the process runs. Each new process gets all current settings when it starts."""
        if self._messenger is not None:
            self._messenger.send(message, fds)

    async def dial(self, client: Stream, tunnel: str | None, to: Endpoint) -> None:
        """Send a duplicate of `client` to the worker, which connects it to `to`.

        Args:
            client: The socket. The caller keeps ownership.
            tunnel: The tunnel; None for the direct link.
            to: The address.

        Raises:
            DialError: The target cannot be reached.
            LinkLostError: The worker or its tunnel is down.
        """
        if self._messenger is None:
            raise LinkLostError("the worker is being started")
        number = next(self._numbers)
        result = self._dials[number] = asyncio.get_running_loop().create_future()
        try:
            self.send(DialRequest(number, tunnel, to), [client.fileno()])
            await result
        finally:
            self._dials.pop(number, None)

    def stop_accepting(self) -> None:
        """Stop accepting clients, in the current worker process and in worker processes that start later."""
        self._listeners = {}
        self.send(WorkerCommand(WorkerAction.STOP_ACCEPTING))

    def abort_idle(self, seconds: float) -> None:
        """Reset the clients that have sent nothing for `seconds` and do not wait for a response."""
        self.send(WorkerCommand(WorkerAction.ABORT_IDLE, seconds))

    def abort_all(self) -> None:
        """Reset every client."""
        self.send(WorkerCommand(WorkerAction.ABORT_ALL))

    def _send_all(self) -> None:
        if self._config is None or self._messenger is None:
            return
        for spec in self._config.backends.values():
            for address in spec.listen:
                if address in self._listeners:
                    descriptors = self._listeners[address].descriptors
                    self.send(ListeningSockets(address, len(descriptors)), descriptors)
        if self._consumers is not None:
            self.send(self._consumers)
        self._sent += 1
        self._applied.clear()
        self.send(ApplyConfig(self._config, self._sent))
        for assignment in self._assignments.values():
            self.send(assignment)
        for name, forward in self.forwards.items():
            if forward.fail_fast:
                self.send(WorkerCommand(WorkerAction.SET_FAIL_FAST, (name, True)))

    def _send_again(self, messenger: Messenger) -> None:
        if messenger is self._messenger:  # a new process has already received all settings
            self._send_all()

    def _on_message(self, message: Any, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        if isinstance(message, AuditEvents):
            self._record(message)
        elif self._messenger is not None:  # if there is none, the process is exiting
            self._dispatch(message)

    def _dispatch(self, message: Any) -> None:
        match message:
            case WorkerReport():
                self._on_report(message)
            case TrafficFailure(backend, target, stalled):
                self._on_failure(backend, target, stalled)
            case UnknownSource():
                self.on_unknown_source()
            case ConfigApplied(number):
                if number == self._sent:
                    self._applied.set()
            case DescriptorsLost() if self._messenger is not None:
                log.error("worker %d did not receive all descriptors: sending its configuration again", self.number)
                asyncio.get_running_loop().call_later(_SEND_AGAIN, self._send_again, self._messenger)
            case DialResult():
                self._on_dial_result(message)

    def _on_dial_result(self, message: DialResult) -> None:
        waiting = self._dials.get(message.number)
        if waiting is None or waiting.done():
            return
        if message.reason is None:
            waiting.set_result(None)
        elif message.lost:
            waiting.set_exception(LinkLostError(message.detail))
        else:
            waiting.set_exception(DialError(message.reason, message.detail))

    def _record(self, message: AuditEvents) -> None:
        self._unrecorded = message.open
        sink = self._recorder.sink
        if sink is not None:
            for event in message.events:
                sink.put(event)
            if message.lost:
                sink.count_lost(message.lost, f"worker {self.number} could not send them to the main process")

    def _record_loss(self) -> None:
        """Count the audit events that the process did not send before it exited."""
        lost, self._unrecorded = self._unrecorded, 0
        if lost and self._recorder.sink is not None:
            self._recorder.sink.count_lost(lost, f"worker {self.number} ended with open connections")

    def _on_report(self, report: WorkerReport) -> None:
        self.report = report
        self._last_report = asyncio.get_running_loop().time()
        for name, forward in self.forwards.items():
            forward.last = report.forwards.get(name, forward.last)
        for tunnel, path in self._paths.items():
            uplink = self.uplink(tunnel)
            path.update(up=uplink.up, settled=uplink.up or uplink.reason is not None)
        self.on_report()

    def _on_process_lost(self) -> None:
        down, last = f"worker {self.number} is being started", self.report.uplinks
        self._before = {name: self.uplink_total(name) for name in last}
        lost = replace(
            NO_UPLINK,
            state=TunnelState.BACKOFF,
            reason=Reason.STARTING,
            described=down,
            detail=down,
            since=time.time(),
        )
        # A process that ends before its first report continues the outage.
        self.report = WorkerReport(
            {
                name: replace(lost, since=last[name].since) if name in last and last[name].detail == down else lost
                for name in {*last, *filter(None, self._paths)}
            },
            {},
        )
        for forward in self.forwards.values():
            forward.worker_lost()
        for path in self._paths.values():
            path.update(up=False, settled=True)
        for waiting in self._dials.values():
            if not waiting.done():
                waiting.set_exception(LinkLostError("the worker process has ended"))
        self.on_report()


async def _reap(child: "subprocess.Popen[bytes]") -> None:
    """Wait until the worker's process exits, and kill the process if it does not exit in time.

    If the killed process does not exit immediately, `subprocess` reaps it when another process starts.
    """
    try:
        await _wait_ended(child, _STOP_TIMEOUT)
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            await _wait_ended(child, _KILL_TIMEOUT)


async def _wait_ended(child: "subprocess.Popen[bytes]", within: float) -> None:
    deadline = asyncio.get_running_loop().time() + within
    while child.poll() is None and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - Popen has no awaitable
        await asyncio.sleep(_REAP_POLL)
