"""The worker's side: `python -m gateway.app.worker_process FD`, started by the owner and ended with it."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
from typing import Any

from gateway.app.runtime import become_io_flusher, prepare_loop, prepare_process
from gateway.app.site import Site
from gateway.app.worker.messages import (
    Action,
    Applied,
    Apply,
    Command,
    Dial,
    Dialled,
    Failed,
    ForwardReport,
    Incomplete,
    Known,
    Order,
    Report,
    Sockets,
    Unfamiliar,
    consumer_view,
    uplink_report,
)
from gateway.app.worker.messenger import Messenger
from gateway.app.worker.outbound import Outbound
from gateway.audit_log.recorder import Recorder
from gateway.contracts import Endpoint, Stream
from gateway.docker.consumers import Directory
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
"""Seconds at the end for the owner to take the last events of the audit log."""
_PR_SET_PDEATHSIG = 1


class Worker:
    """Runs the forwards of some backends, with tunnels of its own.

    Args:
        sock: The owner's other end.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._stop = asyncio.Event()
        self._owner = Messenger(sock, self._heard, self._stop.set)
        self._site: Site | None = None
        self._group: asyncio.TaskGroup | None = None
        self._orders: dict[str, tuple[Endpoint, ...]] = {}
        self._sockets: dict[ListenAddress, list[socket.socket]] = {}
        self._incomplete = False
        """Whether some of them were lost on their way."""
        self._supervisor: Any = None
        self._directory = Directory(lambda: self._owner.send(Unfamiliar()))
        self._recorder = Recorder()
        self._outbound = Outbound(self._owner, self._recorder)

    async def run(self) -> None:
        """Work until the owner says stop, or is gone."""
        async with asyncio.TaskGroup() as group, supervise() as supervisor:
            self._group, self._supervisor = group, supervisor
            reporting = group.create_task(self._report())
            await self._stop.wait()
            reporting.cancel()
        await self._outbound.finish(_LAST_EVENTS)
        self._owner.close()

    def _heard(self, message: Any, fds: list[int]) -> None:
        match message:
            case Sockets(address, count):
                self._incomplete |= len(fds) < count
                self._sockets[address] = [socket.socket(fileno=fd) for fd in fds]
            case Apply():
                self._take(message)
            case Order():
                self._follow(message)
            case Known(consumers):
                self._directory.take(consumers)
            case Dial(number) if not fds:
                self._owner.send(Dialled(number, Reason.TUNNEL, "no descriptor is left for it", lost=True))
            case Dial() if self._group is not None:
                self._group.create_task(self._dial(message, socket.socket(fileno=fds[0])))
            case Command():
                self._obey(message)

    def _take(self, message: Apply) -> None:
        if self._incomplete:
            self._incomplete = False
            self._close_sockets()
            self._owner.send(Incomplete())
            return
        try:
            self._apply(message)
        except Exception:
            log.exception("a configuration could not be applied; the worker starts anew")
            self._stop.set()
        else:
            self._owner.send(Applied(message.number))

    def _follow(self, order: Order) -> None:
        self._orders[order.backend] = order.targets
        running = self._site.backends.get(order.backend) if self._site else None
        if running is not None and running.local is not None:
            running.local.drain_targets(order.unwanted)
            for login in order.logins:
                running.note_login(*login)

    def _apply(self, message: Apply) -> None:
        if self._group is None:
            return
        logs.configure(message.config.log.level, message.config.log.format)
        if self._site is None:
            self._site = Site(self._supervisor, self._group, message.config, self._directory, self, self._recorder)
        self._outbound.apply(message.config.audit)
        self._orders = {}  # the owner sends those that still hold after this
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
        for uplink in self._site.uplinks.values():
            if self._tell not in uplink.watchers:
                uplink.watchers.append(self._tell)

    def _close_sockets(self) -> None:
        """Nobody needs those that are left."""
        for sockets in self._sockets.values():
            _close(sockets)
        self._sockets = {}

    def _obey(self, command: Command) -> None:
        site = self._site
        if command.action is Action.STOP:
            self._stop.set()
        elif site is not None:  # otherwise its first configuration comes again, and what goes with it
            self._obey_on(site, command)

    def _obey_on(self, site: Site, command: Command) -> None:
        match command.action:
            case Action.STOP_ACCEPTING:
                site.stop_accepting()
                self._tell()
            case Action.RECONNECT:
                for uplink in site.uplinks_of(command.argument):
                    uplink.reconnect()
            case Action.SET_FAIL_FAST:
                name, enabled = command.argument
                if name in site.backends:
                    site.backends[name].forward.set_fail_fast(enabled=enabled)
            case Action.ABORT_ALL:
                site.abort_all()
            case Action.ABORT_IDLE:
                site.abort_idle(command.argument)
            case Action.RENEW:
                site.renew(command.argument)
            case Action.RETRY:
                site.retry(command.argument)

    async def _dial(self, message: Dial, sock: Stream) -> None:
        tune(sock)
        client = PendingClient(sock)
        try:
            self._owner.send(await self._join(message, client))
        finally:
            client.reset()

    async def _join(self, message: Dial, client: PendingClient) -> Dialled:
        site = self._site
        uplink = None
        if site is not None:
            uplink = next(iter(site.uplinks_of(message.tunnel)), None) if message.tunnel else site.direct
        if site is None or uplink is None or uplink.link is None:
            return Dialled(message.number, Reason.TUNNEL, "the worker's tunnel is down", lost=True)
        link = uplink.link
        try:
            await retry_dial(
                lambda within: client.join(link, message.to, Histogram(), within),
                lambda: site.given_up(message.tunnel, message.to),
            )
        except ReachError as error:
            return Dialled(message.number, error.reason, error.detail, isinstance(error, LinkLostError))
        except Exception as error:
            # One probe's misfortune must not end the worker, and with it every client.
            log.exception("a probe's connection failed in an unforeseen way")
            return Dialled(message.number, Reason.PROTOCOL, f"{type(error).__name__}: {error}")
        return Dialled(message.number)

    # What the site asks of whoever checks.

    def targets(self, backend: str, configured: tuple[Endpoint, ...]) -> list[Endpoint]:
        """As the owner ordered them last."""
        return list(self._orders.get(backend, configured))

    def failed(self, backend: str, target: Endpoint, *, silent: bool = False) -> None:
        """Tell the owner, which looks at the target now."""
        self._owner.send(Failed(backend, target, silent))

    def _tell(self) -> None:
        if self._site is not None and not self._owner.backlogged:  # the next report says all of it anyway
            self._owner.send(report(self._site))

    async def _report(self) -> None:
        while True:
            self._tell()
            if self._outbound.held:
                self._outbound.send()
            await asyncio.sleep(REPORT_EVERY)


def report(site: Site) -> Report:
    """Everything at one moment."""
    uplinks = {"": site.direct, **{lane.tunnel: uplink for lane, uplink in site.uplinks.items()}}
    forwards = [running.local for running in site.backends.values() if running.local is not None]
    return Report(
        {name: uplink_report(uplink) for name, uplink in uplinks.items()},
        {forward.name: _forward(forward) for forward in forwards},
        draining=sum(forward.active for forward in site.forwards()) - sum(forward.active for forward in forwards),
    )


def _forward(forward: Forward) -> ForwardReport:
    return ForwardReport(
        active=forward.active,
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
    """Run on the descriptor that the command line names."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The owner decides when to stop; the terminal's Ctrl-C reaches every process of the group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.setblocking(False)
    become_io_flusher()
    prepare_process()
    with asyncio.Runner(loop_factory=RelayLoop) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(_work(sock))
    os._exit(0)


async def _work(sock: socket.socket) -> None:
    prepare_loop()
    handshake_limiter().per_server = 1  # the owner and its workers share what a server takes
    await Worker(sock).run()


if __name__ == "__main__":
    main()
