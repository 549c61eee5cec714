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
from gateway.app.handshake_budgets import HandshakeBudgets
from gateway.app.process_setup import prepare_loop, prepare_process, set_io_flusher
from gateway.app.site import Site
from gateway.app.tracing import create_exporter
from gateway.app.units import Units
from gateway.app.uplinks import Uplinks
from gateway.app.worker.messages import (
    Applied,
    Apply,
    Command,
    ConsumerSnapshot,
    Dial,
    DialResult,
    ForwardReport,
    Incomplete,
    Sockets,
    TargetAssignment,
    UnknownSource,
    WorkerAction,
    WorkerReport,
    consumer_view,
    uplink_report,
)
from gateway.app.worker.messenger import Messenger
from gateway.app.worker.outbound import AuditEventSender
from gateway.app.worker.owner import Workers
from gateway.audit_log.recorder import Recorder
from gateway.config import Config
from gateway.contracts.link import Stream
from gateway.contracts.tracing import TraceExporter
from gateway.docker.consumers import ConsumerDirectory
from gateway.errors import LinkLostError, ReachError, Reason
from gateway.forwarding.forward import Forward
from gateway.forwarding.listener import ListenAddress, Listener
from gateway.forwarding.pending_client import PendingClient
from gateway.measure import Histogram
from gateway.ops import logs
from gateway.relay.poller import RelayLoop
from gateway.relay.redial import retry_dial
from gateway.relay.sockets import tune
from gateway.ssh.handshake_limiter import handshake_limiter
from gateway.supervision.supervisor import supervise

log = logging.getLogger(__name__)

REPORT_EVERY = 0.25
_LAST_EVENTS = 1.0
"""Seconds that a stopping worker waits until the owner has received the last audit events."""
_PR_SET_PDEATHSIG = 1


class Worker:
    """Runs the forwards of some backends, with its own tunnels.

    Args:
        sock: The connection to the owner.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._stop = asyncio.Event()
        self._owner = Messenger(sock, self._on_message, self._stop.set)
        self._site: Site | None = None
        self._group: asyncio.TaskGroup | None = None
        self._units: Units | None = None
        self._targets = AssignedTargets(self._owner)
        self._budgets = HandshakeBudgets()
        self._sockets: dict[ListenAddress, list[socket.socket]] = {}
        self._incomplete = False
        """Whether some of the listeners' descriptors were lost between the owner and this process."""
        self._directory = ConsumerDirectory(lambda: self._owner.send(UnknownSource()))
        self._recorder = Recorder()
        self._audit = AuditEventSender(self._owner, self._recorder)
        self._exporter: TraceExporter | None = None

    async def run(self) -> None:
        """Run until the owner sends `stop` or closes the connection."""
        async with asyncio.TaskGroup() as group, supervise() as supervisor:
            self._group, self._units = group, Units(supervisor, group)
            reporting = group.create_task(self._report_periodically())
            await self._stop.wait()
            reporting.cancel()
        await self._audit.finish(_LAST_EVENTS)
        if self._exporter is not None:
            await self._exporter.close()
        self._owner.close()

    def _on_message(self, message: Any, fds: list[int]) -> None:
        match message:
            case Sockets(address, count):
                self._incomplete |= len(fds) < count
                self._sockets[address] = [socket.socket(fileno=fd) for fd in fds]
            case Apply():
                self._on_apply(message)
            case TargetAssignment():
                self._on_assignment(message)
            case ConsumerSnapshot(consumers):
                self._directory.replace(consumers)
            case Dial(number) if not fds:
                self._owner.send(DialResult(number, Reason.TUNNEL, "the worker has no descriptor left", lost=True))
            case Dial() if self._group is not None:
                self._group.create_task(self._dial(message, socket.socket(fileno=fds[0])))
            case Command():
                self._on_command(message)

    def _on_apply(self, message: Apply) -> None:
        if self._incomplete:
            self._incomplete = False
            self._close_sockets()
            self._owner.send(Incomplete())
            return
        try:
            self._apply(message)
        except Exception:
            log.exception("cannot apply a configuration: the worker restarts")
            self._stop.set()
        else:
            self._owner.send(Applied(message.number))

    def _on_assignment(self, assignment: TargetAssignment) -> None:
        self._targets.assigned[assignment.backend] = assignment.targets
        running = self._site.backends.get(assignment.backend) if self._site else None
        if running is not None and running.local is not None:
            running.local.move_clients(assignment.wrong_role, assignment.left)
            for login in assignment.logins:
                running.record_login(*login)

    def _apply(self, message: Apply) -> None:
        if self._units is None:
            return
        logs.configure(message.config.log.level, message.config.log.format)
        if self._site is None:
            self._site = self._create_site(self._units, message.config)
        self._audit.apply(message.config.audit)
        self._targets.assigned = {}  # the owner sends the new assignments later
        listeners: dict[ListenAddress, Listener] = {}
        for spec in message.config.backends.values():
            for address in spec.listen:
                known, sent = self._site.listeners.get(address), self._sockets.pop(address, None)
                if known is not None:
                    listeners[address] = known
                    _close(sent or [])
                elif sent is not None:
                    listeners[address] = Listener(address, sent)
        self._close_sockets()
        self._site.apply(message.config, listeners)
        for uplink in self._site.uplinks.by_lane.values():
            if self._send_report not in uplink.watchers:
                uplink.watchers.append(self._send_report)

    def _create_site(self, units: Units, config: Config) -> Site:
        # Each tunnel has one lane, because a worker carries one traffic class only.
        uplinks = Uplinks(units, separate_bulk=False)
        no_workers = Workers(0, lambda *_: None, self._recorder)
        self._exporter = create_exporter(config)
        records = self._recorder, self._exporter
        return Site(units, uplinks, config, self._directory, self._targets, self._budgets, no_workers, *records)

    def _close_sockets(self) -> None:
        """Close the sockets that no listener uses."""
        for sockets in self._sockets.values():
            _close(sockets)
        self._sockets = {}

    def _on_command(self, command: Command) -> None:
        site = self._site
        if command.action is WorkerAction.STOP:
            self._stop.set()
        elif site is not None:  # if there is none, the owner sends all settings later
            self._run_command(site, command)

    def _run_command(self, site: Site, command: Command) -> None:
        match command.action:
            case WorkerAction.STOP_ACCEPTING:
                site.stop_accepting()
                self._send_report()
            case WorkerAction.RECONNECT:
                site.reconnect(command.argument)
            case WorkerAction.SET_FAIL_FAST:
                name, enabled = command.argument
                if name in site.backends:
                    site.backends[name].forward.set_fail_fast(enabled=enabled)
            case WorkerAction.ABORT_ALL:
                site.abort_all()
            case WorkerAction.ABORT_IDLE:
                site.abort_idle(command.argument)
            case WorkerAction.RENEW:
                site.renew(command.argument)
            case WorkerAction.RETRY:
                site.retry(command.argument)

    async def _dial(self, message: Dial, sock: Stream) -> None:
        tune(sock)
        client = PendingClient(sock)
        try:
            self._owner.send(await self._join(message, client))
        finally:
            client.reset()

    async def _join(self, message: Dial, client: PendingClient) -> DialResult:
        site = self._site
        uplink = None
        if site is not None:
            uplinks = site.uplinks.of_tunnel(message.tunnel) if message.tunnel else [site.uplinks.direct]
            uplink = next(iter(uplinks), None)
        if site is None or uplink is None or uplink.link is None:
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
        if self._site is not None and not self._owner.backlogged:  # the next report includes the current values
            self._owner.send(report(self._site))

    async def _report_periodically(self) -> None:
        while True:
            self._send_report()
            if self._audit.held:
                self._audit.send()
            await asyncio.sleep(REPORT_EVERY)


def report(site: Site) -> WorkerReport:
    """Return the current states and counters of a worker."""
    uplinks = {"": site.uplinks.direct, **{lane.tunnel: each for lane, each in site.uplinks.by_lane.items()}}
    forwards = [running.local for running in site.backends.values() if running.local is not None]
    return WorkerReport(
        {name: uplink_report(uplink) for name, uplink in uplinks.items()},
        {forward.name: _forward(forward) for forward in forwards},
        draining=sum(forward.active for forward in site.forwards()) - sum(forward.active for forward in forwards),
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
    await Worker(sock).run()


if __name__ == "__main__":
    main()
