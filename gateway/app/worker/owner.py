"""The owner's side of its workers: which backends go where, and the life of each process."""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gateway.app.lanes import tunnels_of
from gateway.app.worker.messages import (
    NO_UPLINK,
    Apply,
    Command,
    Dial,
    Dialled,
    Failed,
    Messenger,
    Order,
    Report,
    UplinkReport,
)
from gateway.app.worker.remote import RemoteForward, RemotePath
from gateway.config import BackendSpec, Config
from gateway.contracts import Endpoint, Stream
from gateway.errors import DialError, GatewayError, LinkLostError
from gateway.forwarding.listener import Address, Listener

_STOP_TIMEOUT = 3.0


class WorkerLostError(GatewayError):
    """A worker process ended by itself; the supervisor starts another."""


class WorkerUnit:
    """One worker process; a `gateway.contracts.Unit`.

    Args:
        number: Which, from 1.
        failed: Told about each backend and target where traffic failed.
    """

    def __init__(self, number: int, failed: Callable[[str, Endpoint], None]) -> None:
        self.number = number
        self.forwards: dict[str, RemoteForward] = {}
        self.report = Report({}, {})
        self._failed = failed
        self._paths: dict[str | None, RemotePath] = {}
        self._config: Config | None = None
        self._listeners: dict[Address, Listener] = {}
        self._orders: dict[str, tuple[Endpoint, ...]] = {}
        self._messenger: Messenger | None = None
        self._dials: dict[int, asyncio.Future[None]] = {}
        self._numbers = itertools.count()
        self._pid: int | None = None

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
            [sys.executable, "-m", "gateway.app.worker.process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._pid = child.pid
        ended = asyncio.Event()
        self._messenger = Messenger(ours, self._heard, ended.set)
        try:
            self._send_all()
            ready()
            await ended.wait()
            raise WorkerLostError(f"worker {self.number} (process {child.pid}) is gone: its clients were reset")
        finally:
            self.send(Command("stop"))
            self._messenger.close()
            self._messenger = None
            self._lost()
            await _reap(child)

    def apply(self, config: Config, listeners: dict[Address, Listener]) -> None:
        """Serve these backends from now on."""
        self._config, self._listeners = config, listeners
        for name in config.backends:
            self.forwards.setdefault(name, RemoteForward(name, self))
        self.forwards = {name: self.forwards[name] for name in config.backends}
        self._send_all()

    def order(self, backend: str, targets: list[Endpoint]) -> None:
        """The targets that new clients get from now on, best first."""
        if self._orders.get(backend) != tuple(targets):
            self._orders[backend] = tuple(targets)
            self.send(Order(backend, tuple(targets)))

    def path(self, tunnel: str | None) -> RemotePath:
        """One of its uplinks."""
        return self._paths.setdefault(tunnel, RemotePath(self, tunnel))

    def uplink(self, tunnel: str | None) -> UplinkReport:
        """What it last said about one of its uplinks."""
        return self.report.uplinks.get(tunnel or "", NO_UPLINK)

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
        self.send(Dial(number, tunnel, to), [client.fileno()])
        try:
            await dialled
        finally:
            self._dials.pop(number, None)

    def _send_all(self) -> None:
        if self._config is None or self._messenger is None:
            return
        wanted = [
            (address, self._listeners[address])
            for spec in self._config.backends.values()
            for address in spec.listen
            if address in self._listeners
        ]
        fds = [fd for _, listener in wanted for fd in listener.descriptors]
        counts = tuple((address, len(listener.descriptors)) for address, listener in wanted)
        self.send(Apply(self._config, counts), fds)
        for backend, targets in self._orders.items():
            self.send(Order(backend, targets))

    def _heard(self, message: Any, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        match message:
            case Report():
                self._take(message)
            case Failed(backend, target):
                self._failed(backend, target)
            case Dialled():
                waiting = self._dials.get(message.number)
                if waiting is None or waiting.done():
                    return
                if message.reason is None:
                    waiting.set_result(None)
                elif message.lost:
                    waiting.set_exception(LinkLostError(message.detail))
                else:
                    waiting.set_exception(DialError(message.reason, message.detail))

    def _take(self, report: Report) -> None:
        self.report = report
        for name, forward in self.forwards.items():
            forward.last = report.forwards.get(name, forward.last)
        for tunnel, path in self._paths.items():
            known = self.uplink(tunnel)
            path.update(up=known.up, settled=known.up or known.reason is not None)

    def _lost(self) -> None:
        self.report = Report({}, {})
        for forward in self.forwards.values():
            forward.worker_lost()
        for path in self._paths.values():
            path.update(up=False, settled=True)
        for waiting in self._dials.values():
            if not waiting.done():
                waiting.set_exception(LinkLostError("the worker is gone"))


class Workers:
    """All workers, and which backends they serve.

    Args:
        count: How many.
        failed: Told about each backend and target where traffic failed.
    """

    def __init__(self, count: int, failed: Callable[[str, Endpoint], None]) -> None:
        self.units = [WorkerUnit(number + 1, failed) for number in range(count)]

    def assign(self, config: Config) -> dict[str, WorkerUnit]:
        """Who serves which backend; those not named are this process's own."""
        chosen = [name for name, spec in sorted(config.backends.items()) if self._goes(spec, config)]
        # By name, so that a backend stays where it is when others come and go.
        return {name: self.units[zlib.crc32(name.encode()) % len(self.units)] for name in chosen}

    def _goes(self, spec: BackendSpec, config: Config) -> bool:
        if not self.units or spec.worker is False:
            return False
        if spec.worker:
            return True
        # Bulk makes way for queries; where there is only one kind of traffic, all of it moves.
        kinds = {each.kind.bulk for each in config.backends.values()}
        return spec.kind.bulk or len(kinds) == 1

    def apply(self, config: Config, listeners: dict[Address, Listener]) -> dict[str, WorkerUnit]:
        """Tell each worker its part of `config`."""
        assigned = self.assign(config)
        for unit in self.units:
            names = {name for name, worker in assigned.items() if worker is unit}
            unit.apply(part(config, names), listeners)
        return assigned

    def reports(self, tunnel: str) -> list[UplinkReport]:
        """What the workers say about a tunnel that they use."""
        return [unit.report.uplinks[tunnel] for unit in self.units if tunnel in unit.report.uplinks]


def part(config: Config, backends: set[str]) -> Config:
    """`config` with these backends only, and the tunnels that they go through."""
    kept = {name: spec for name, spec in config.backends.items() if name in backends}
    return replace(
        config, backends=kept, tunnels={name: config.tunnels[name] for name in tunnels_of(config, backends)}
    )


async def _reap(child: "subprocess.Popen[bytes]") -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_STOP_TIMEOUT):
            await loop.run_in_executor(None, child.wait)
    except TimeoutError:
        child.send_signal(signal.SIGKILL)
        await loop.run_in_executor(None, child.wait)
