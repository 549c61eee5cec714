"""The owner's side of one worker: the life of its process, and what the two tell each other."""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gateway.app.worker.messages import (
    NO_UPLINK,
    Action,
    Applied,
    Apply,
    Command,
    Dial,
    Dialled,
    Failed,
    Incomplete,
    Known,
    Order,
    Recorded,
    Report,
    Sockets,
    Unfamiliar,
    UplinkReport,
)
from gateway.app.worker.messenger import Messenger
from gateway.app.worker.remote import RemoteForward, RemotePath
from gateway.audit_log.recorder import Recorder
from gateway.config import Config
from gateway.contracts import Endpoint, Stream
from gateway.docker.consumers import Consumer
from gateway.errors import DialError, GatewayError, LinkLostError
from gateway.forwarding.listener import ListenAddress, Listener

log = logging.getLogger(__name__)

_STOP_TIMEOUT = 3.0
_KILL_TIMEOUT = 2.0
_SEND_AGAIN = 1.0
_REAP_POLL = 0.02
_LOOK = 1.0
_SILENCE = 15.0
"""Seconds without a report, of which there are four a second, after which a worker is taken for stuck."""


class WorkerLostError(GatewayError):
    """A worker process ended by itself; the supervisor starts another."""


class WorkerUnit:
    """One worker process; a `gateway.contracts.Unit`.

    Args:
        number: Which, from 1.
        failed: Told about each backend and target where traffic failed.
        recorder: Where the ends of its clients are recorded; None: nowhere.
    """

    def __init__(
        self, number: int, failed: Callable[[str, Endpoint, bool], None], recorder: Recorder | None = None
    ) -> None:
        self.number = number
        self.forwards: dict[str, RemoteForward] = {}
        self.report = Report({}, {})
        self._failed = failed
        self._recorder = recorder or Recorder()
        self._unrecorded = 0
        """Its clients whose end is still to be recorded."""
        self._paths: dict[str | None, RemotePath] = {}
        self._config: Config | None = None
        self._listeners: dict[ListenAddress, Listener] = {}
        self._orders: dict[str, Order] = {}
        self._messenger: Messenger | None = None
        self._dials: dict[int, asyncio.Future[None]] = {}
        self._numbers = itertools.count()
        self._pid: int | None = None
        self._heard_at = 0.0
        self._before: dict[str, UplinkReport] = {}
        self._known: Known | None = None
        self._sent = 0
        self._applied = asyncio.Event()
        """Whether the process has applied what was sent last."""
        self.unfamiliar: Callable[[], None] = lambda: None
        """Called when a client came from an address that the worker does not know."""

    @property
    def running(self) -> bool:
        """Whether there is a process that listens to us."""
        return self._messenger is not None

    @property
    def pid(self) -> int | None:
        """The process."""
        return self._pid

    async def run(self, ready: Callable[[], None]) -> None:
        """Start the process and keep it until cancelled.

        Raises:
            WorkerLostError: It ended by itself.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        child = subprocess.Popen(  # noqa: ASYNC220, S603 - fork and exec, which take a moment, and ourselves
            [sys.executable, "-m", "gateway.app.worker_process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._pid = child.pid
        ended = asyncio.Event()
        self._messenger = Messenger(ours, self._heard, ended.set)
        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()
        try:
            self._send_all()
            ready()
            while not ended.is_set() and loop.time() - self._heard_at < _SILENCE:
                began = loop.time()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), _LOOK)
                self._heard_at += max(0.0, loop.time() - began - _LOOK)  # we slept, too
            raise WorkerLostError(
                f"worker {self.number} (process {child.pid}) is gone or silent: its clients are reset"
            )
        finally:
            messenger, self._messenger = self._messenger, None
            messenger.send(Command(Action.STOP))
            self._applied.set()  # the next process is told anew
            self._lost()
            try:
                await _reap(child)  # which sends what is still to be recorded
            finally:
                messenger.close()
                self._record_loss()

    def apply(self, config: Config, listeners: dict[ListenAddress, Listener]) -> None:
        """Serve these backends from now on."""
        self._config, self._listeners = config, listeners
        for name in config.backends:
            self.forwards.setdefault(name, RemoteForward(name, self.send))
        self.forwards = {name: self.forwards[name] for name in config.backends}
        self._orders = {
            name: order
            for name, order in self._orders.items()
            if name in config.backends and set(order.targets) <= set(config.backends[name].targets)
        }
        self._send_all()

    async def settled(self) -> None:
        """Wait until the process runs what `apply` told it; at once where there is none."""
        if self.running:
            await self._applied.wait()

    def order(self, order: Order) -> None:
        """Send clients there from now on."""
        if self._orders.get(order.backend) != order:
            self._orders[order.backend] = order
            self.send(order)

    def introduce(self, consumers: dict[str, Consumer]) -> None:
        """These are the consumers from now on."""
        if self._known is None or self._known.consumers != consumers:
            self._known = Known(consumers)
            self.send(self._known)

    def path(self, tunnel: str | None) -> RemotePath:
        """One of its uplinks."""
        return self._paths.setdefault(tunnel, RemotePath(tunnel, self.dial, lambda: self._describe(tunnel)))

    def _describe(self, tunnel: str | None) -> str:
        return self.uplink(tunnel).described if self.running else f"worker {self.number} is being started"

    def uplink(self, tunnel: str | None) -> UplinkReport:
        """What it last said about one of its uplinks."""
        return self.report.uplinks.get(tunnel or "", NO_UPLINK)

    def counted(self, tunnel: str) -> UplinkReport:
        """What it says about one of its tunnels, with what the processes before it counted."""
        now, before = self.report.uplinks[tunnel], self._before.get(tunnel, NO_UPLINK)
        return replace(
            now,
            connects=now.connects + before.connects,
            failures=dict(Counter(now.failures) + Counter(before.failures)),
            channel_open=now.channel_open.plus(before.channel_open),
        )

    def send(self, message: Any, fds: list[int] | None = None) -> None:
        """Tell the worker, where there is one; a new one is told everything anyway."""
        if self._messenger is not None:
            self._messenger.send(message, fds)

    async def dial(self, client: Stream, tunnel: str | None, to: Endpoint) -> None:
        """Let the worker join `client` to `to`.

        Raises:
            DialError, LinkLostError: As the worker's link says.
        """
        if self._messenger is None:
            raise LinkLostError("the worker is being started")
        number = next(self._numbers)
        dialled = self._dials[number] = asyncio.get_running_loop().create_future()
        try:
            self.send(Dial(number, tunnel, to), [client.fileno()])
            await dialled
        finally:
            self._dials.pop(number, None)

    def stop_accepting(self) -> None:
        """No more clients: not now, and not in a process that is started from here on."""
        self._listeners = {}
        self.send(Command(Action.STOP_ACCEPTING))

    def abort_idle(self, seconds: float) -> None:
        """Reset the clients that wait for nothing and have been silent for so many seconds."""
        self.send(Command(Action.ABORT_IDLE, seconds))

    def abort_all(self) -> None:
        """Reset every client."""
        self.send(Command(Action.ABORT_ALL))

    def _send_all(self) -> None:
        if self._config is None or self._messenger is None:
            return
        for spec in self._config.backends.values():
            for address in spec.listen:
                if address in self._listeners:
                    descriptors = self._listeners[address].descriptors
                    self.send(Sockets(address, len(descriptors)), descriptors)
        if self._known is not None:
            self.send(self._known)
        self._sent += 1
        self._applied.clear()
        self.send(Apply(self._config, self._sent))
        for order in self._orders.values():
            self.send(order)
        for name, forward in self.forwards.items():
            if forward.fail_fast:
                self.send(Command(Action.SET_FAIL_FAST, (name, True)))

    def _send_again(self, messenger: Messenger) -> None:
        if messenger is self._messenger:  # a new process is told anew anyway
            self._send_all()

    def _heard(self, message: Any, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        if isinstance(message, Recorded):
            self._record(message)
        elif self._messenger is not None:  # it is not ending; what it counted is settled then
            self._take_in(message)

    def _take_in(self, message: Any) -> None:
        match message:
            case Report():
                self._take(message)
            case Failed(backend, target, silent):
                self._failed(backend, target, silent)
            case Unfamiliar():
                self.unfamiliar()
            case Applied(number):
                if number == self._sent:
                    self._applied.set()
            case Incomplete() if self._messenger is not None:
                log.error("worker %d lacks descriptors: its configuration is sent again", self.number)
                asyncio.get_running_loop().call_later(_SEND_AGAIN, self._send_again, self._messenger)
            case Dialled():
                self._dialled(message)

    def _dialled(self, message: Dialled) -> None:
        waiting = self._dials.get(message.number)
        if waiting is None or waiting.done():
            return
        if message.reason is None:
            waiting.set_result(None)
        elif message.lost:
            waiting.set_exception(LinkLostError(message.detail))
        else:
            waiting.set_exception(DialError(message.reason, message.detail))

    def _record(self, message: Recorded) -> None:
        self._unrecorded = message.open
        sink = self._recorder.sink
        if sink is not None:
            for event in message.events:
                sink.put(event)
            if message.lost:
                sink.count_lost(message.lost, f"worker {self.number} could not pass them on")

    def _record_loss(self) -> None:
        """The process is gone, and with it what it knew of its clients."""
        lost, self._unrecorded = self._unrecorded, 0
        if lost and self._recorder.sink is not None:
            self._recorder.sink.count_lost(lost, f"worker {self.number} ended with so many connections")

    def _take(self, report: Report) -> None:
        self.report = report
        self._heard_at = asyncio.get_running_loop().time()
        for name, forward in self.forwards.items():
            forward.last = report.forwards.get(name, forward.last)
        for tunnel, path in self._paths.items():
            known = self.uplink(tunnel)
            path.update(up=known.up, settled=known.up or known.reason is not None)

    def _lost(self) -> None:
        down = f"worker {self.number} is being started"
        self._before = {name: self.counted(name) for name in self.report.uplinks}
        self.report = Report({name: replace(NO_UPLINK, described=down, detail=down) for name in self._before}, {})
        for forward in self.forwards.values():
            forward.worker_lost()
        for path in self._paths.values():
            path.update(up=False, settled=True)
        for waiting in self._dials.values():
            if not waiting.done():
                waiting.set_exception(LinkLostError("the worker is gone"))


async def _reap(child: "subprocess.Popen[bytes]") -> None:
    """Wait for the process, and kill it when it does not end by itself.

    One that the kernel does not let go of is left behind: `subprocess` collects it when another is started.
    """
    try:
        await _ended(child, _STOP_TIMEOUT)
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            await _ended(child, _KILL_TIMEOUT)


async def _ended(child: "subprocess.Popen[bytes]", within: float) -> None:
    deadline = asyncio.get_running_loop().time() + within
    while child.poll() is None and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - a process has no event
        await asyncio.sleep(_REAP_POLL)
