"""Runs a worker process: `python -m gateway.app.worker_process FD`. The process exits when its owner exits."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
from typing import Any

from gateway.app.assigned_targets import AssignedTargets
from gateway.app.component_manager import ComponentManager
from gateway.app.handshake_budgets import HandshakeBudgets
from gateway.app.process_setup import prepare_loop, prepare_process, set_io_flusher
from gateway.app.runtime import Runtime
from gateway.app.trace_exporter import create_exporter
from gateway.app.uplink_manager import UplinkManager
from gateway.app.worker.audit_event_sender import AuditEventSender
from gateway.app.worker.messages import (
    ApplyConfig,
    ConfigApplied,
    ConsumerSnapshot,
    DescriptorsLost,
    DialRequest,
    DialResult,
    ForwardReport,
    ListeningSockets,
    TargetAssignment,
    UnknownSource,
    WorkerAction,
    WorkerCommand,
    WorkerReport,
    consumer_view,
    uplink_report,
)
from gateway.app.worker.messenger import Messenger
from gateway.app.worker.worker_pool import WorkerPool
from gateway.audit_log.recorder import AuditRecorder
from gateway.config import Config
from gateway.contracts.link import Stream
from gateway.contracts.tracing import TraceExporter
from gateway.contracts.values import Endpoint
from gateway.docker.consumers import ConsumerDirectory
from gateway.errors import LinkLostError, ReachError, Reason
from gateway.forwarding.forward import Forward
from gateway.forwarding.listener import Listener
from gateway.forwarding.pending_client import PendingClient
from gateway.measurement import Histogram
from gateway.ops import logs
from gateway.relay.dial_retry import retry_dial
from gateway.relay.poller import RelayLoop
from gateway.relay.sockets import tune
from gateway.ssh.handshake_limiter import handshake_limiter
from gateway.supervision.supervisor import supervise

log = logging.getLogger(__name__)

REPORT_EVERY = 0.25
_LAST_EVENTS = 1.0
"""Seconds that a stopping worker waits until the owner has received the last audit events."""
_PR_SET_PDEATHSIG = 1


class WorkerProcess:
    """The main object of a worker process, which runs the forwards and tunnels of some backends.

    Args:
        sock: The connection to the owner.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._stop = asyncio.Event()
        self._owner = Messenger(sock, self._on_message, self._stop.set)
        self._runtime: Runtime | None = None
        self._group: asyncio.TaskGroup | None = None
        self._components: ComponentManager | None = None
        self._targets = AssignedTargets(self._owner)
        self._budgets = HandshakeBudgets()
        self._sockets: dict[Endpoint, list[socket.socket]] = {}
        self._incomplete = False
        """Whether some of the listeners' descriptors were lost between the owner and this process."""
        self._directory = ConsumerDirectory(lambda: self._owner.send(UnknownSource()))
        self._recorder = AuditRecorder()
        self._audit = AuditEventSender(self._owner, self._recorder)
        self._exporter: TraceExporter | None = None

    async def run(self) -> None:
        """Run until the owner sends `stop` or closes the connection."""
        async with asyncio.TaskGroup() as group, supervise() as supervisor:
            self._group, self._components = group, ComponentManager(supervisor, group)
            reporting = group.create_task(self._report_periodically())
            await self._stop.wait()
            reporting.cancel()
        await self._audit.finish(_LAST_EVENTS)
        if self._exporter is not None:
            await self._exporter.close()
        self._owner.close()

    def _on_message(self, message: Any, fds: list[int]) -> None:
        match message:
            case ListeningSockets(address, count):
                self._incomplete |= len(fds) < count
                self._sockets[address] = [socket.socket(fileno=fd) for fd in fds]
            case ApplyConfig():
                self._on_apply(message)
            case TargetAssignment():
                self._on_assignment(message)
            case ConsumerSnapshot(consumers):
                self._directory.replace(consumers)
            case DialRequest(number) if not fds:
                self._owner.send(DialResult(number, Reason.TUNNEL, "the worker has no free descriptor", lost=True))
            case DialRequest() if self._group is not None:
                self._group.create_task(self._dial(message, socket.socket(fileno=fds[0])))
            case WorkerCommand():
                self._on_command(message)

    def _on_apply(self, message: ApplyConfig) -> None:
        if self._incomplete:
            self._incomplete = False
            self._close_sockets()
            self._owner.send(DescriptorsLost())
            return
        try:
            self._apply(message)
        except Exception:
            log.exception("cannot apply a configuration: the worker restarts")
            self._stop.set()
        else:
            self._owner.send(ConfigApplied(message.number))

    def _on_assignment(self, assignment: TargetAssignment) -> None:
        self._targets.assigned[assignment.backend] = assignment.targets
        running = self._runtime.backends.get(assignment.backend) if self._runtime else None
        if running is not None and running.local is not None:
            running.local.move_clients(assignment.wrong_role, assignment.left)
            for login in assignment.logins:
                running.record_login(*login)

    def _apply(self, message: ApplyConfig) -> None:
        if self._components is None:
            return
        logs.configure(message.config.log.level, message.config.log.format)
        if self._runtime is None:
            self._runtime = self._create_runtime(self._components, message.config)
        self._audit.apply(message.config.audit)
        self._targets.assigned = {}  # the owner sends the new assignments later
        listeners: dict[Endpoint, Listener] = {}
        for spec in message.config.backends.values():
            for address in spec.listen:
                known, sent = self._runtime.listeners.get(address), self._sockets.pop(address, None)
                if known is not None:
                    listeners[address] = known
                    _close(sent or [])
                elif sent is not None:
                    listeners[address] = Listener(address, sent)
        self._close_sockets()
        self._runtime.apply(message.config, listeners)
        for uplink in self._runtime.uplinks.by_lane.values():
            if self._send_report not in uplink.watchers:
                uplink.watchers.append(self._send_report)

    def _create_runtime(self, components: ComponentManager, config: Config) -> Runtime:
        # Each tunnel has one lane, because a worker carries one traffic class only.
        uplinks = UplinkManager(components, separate_bulk=False)
        no_workers = WorkerPool(0, lambda *_: None, self._recorder)
        self._exporter = create_exporter(config)
        records = self._recorder, self._exporter
        return Runtime(
            components, uplinks, config, self._directory, self._targets, self._budgets, no_workers, *records
        )

    def _close_sockets(self) -> None:
        """Close the sockets that no listener uses."""
        for sockets in self._sockets.values():
            _close(sockets)
        self._sockets = {}

    def _on_command(self, command: WorkerCommand) -> None:
        runtime = self._runtime
        if command.action is WorkerAction.STOP:
            self._stop.set()
        elif runtime is not None:  # if there is none, the owner sends all settings later
            self._run_command(runtime, command)

    def _run_command(self, runtime: Runtime, command: WorkerCommand) -> None:
        match command.action:
            case WorkerAction.STOP_ACCEPTING:
                runtime.stop_accepting()
                self._send_report()
            case WorkerAction.RECONNECT:
                runtime.reconnect(command.argument)
            case WorkerAction.SET_FAIL_FAST:
                name, enabled = command.argument
                if name in runtime.backends:
                    runtime.backends[name].forward.set_fail_fast(enabled=enabled)
            case WorkerAction.ABORT_ALL:
                runtime.abort_all()
            case WorkerAction.ABORT_IDLE:
                runtime.abort_idle(command.argument)
            case WorkerAction.RENEW:
                runtime.renew(command.argument)
            case WorkerAction.RETRY:
                runtime.retry(command.argument)

    async def _dial(self, message: DialRequest, sock: Stream) -> None:
        tune(sock)
        client = PendingClient(sock)
        try:
            self._owner.send(await self._join(message, client))
        finally:
            client.reset()

    async def _join(self, message: DialRequest, client: PendingClient) -> DialResult:
        runtime = self._runtime
        uplink = None
        if runtime is not None:
            uplinks = runtime.uplinks.of_tunnel(message.tunnel) if message.tunnel else [runtime.uplinks.direct]
            uplink = next(iter(uplinks), None)
        if runtime is None or uplink is None or uplink.link is None:
            return DialResult(message.number, Reason.TUNNEL, "the worker's tunnel is down", lost=True)
        link = uplink.link
        try:
            await retry_dial(
                lambda within: client.join(link, message.to, Histogram(), within),
                lambda: self._budgets.record_abandoned_dial(message.tunnel, message.to),
            )
        except ReachError as error:
            return DialResult(message.number, error.reason, error.detail, isinstance(error, LinkLostError))
        except Exception as error:
            # An error of one probe must not stop the worker, because a stop resets all clients of the worker.
            log.exception("unexpected error while dialing for a probe")
            return DialResult(message.number, Reason.PROTOCOL, f"{type(error).__name__}: {error}")
        return DialResult(message.number)

    def _send_report(self) -> None:
        if self._runtime is not None and not self._owner.backlogged:  # the next report includes the current values
            self._owner.send(report(self._runtime))

    async def _report_periodically(self) -> None:
        while True:
            self._send_report()
            if self._audit.held:
                self._audit.send()
            await asyncio.sleep(REPORT_EVERY)


def report(runtime: Runtime) -> WorkerReport:
    """Return the current states and counters of a worker."""
    uplinks = {"": runtime.uplinks.direct, **{lane.tunnel: each for lane, each in runtime.uplinks.by_lane.items()}}
    forwards = [running.local for running in runtime.backends.values() if running.local is not None]
    return WorkerReport(
        {name: uplink_report(uplink) for name, uplink in uplinks.items()},
        {forward.name: _forward(forward) for forward in forwards},
        draining=sum(forward.active for forward in runtime.forwards()) - sum(forward.active for forward in forwards),
    )


def _forward(forward: Forward) -> ForwardReport:
    return ForwardReport(
        active=forward.active,
        waiting=forward.waiting,
        accepted=forward.accepted,
        rejected=dict(forward.rejected),
        resets=dict(forward.resets),
        to_backend=forward.to_backend,
        from_backend=forward.from_backend,
        latency=forward.latency,
        consumers={name: consumer_view(usage) for name, usage in forward.consumers.items()},
    )


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def main() -> None:
    """Run a worker on the descriptor whose number is the first argument."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Ignore SIGINT, which a terminal sends to the whole process group: the owner decides when the worker stops.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.setblocking(False)
    set_io_flusher()
    prepare_process()
    with asyncio.Runner(loop_factory=RelayLoop) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(_work(sock))
    os._exit(0)


async def _work(sock: socket.socket) -> None:
    prepare_loop()
    handshake_limiter().per_server = 1  # the owner and its workers share the limit per server
    await WorkerProcess(sock).run()


if __name__ == "__main__":
    main()
