"""Connects to a target through a program that listens on a local port (`mode: port`)."""

import asyncio
import logging
import time
from collections.abc import Mapping

from gateway.command_tunnel.connector_context import ConnectorContext
from gateway.command_tunnel.listening_process import ListeningProcess, LocalPortNotAcceptingError
from gateway.command_tunnel.local_port_state import LocalPortState
from gateway.command_tunnel.local_port_stream import LocalPortStream
from gateway.command_tunnel.owned_tasks import OwnedTasks
from gateway.command_tunnel.port_reservations import release_port, reserve_port
from gateway.command_tunnel.start_backoff import StartBackoff
from gateway.contracts.config_types import HostPort
from gateway.errors import TunnelError
from gateway.processes.child_process import exit_error, starting

log = logging.getLogger(__name__)


class LocalPortConnector:
    """Connects to one target through processes that listen on a port; implements `TargetConnector`.

    Usually, one process serves all clients. If this process stops responding, the connector starts another process
    for new clients. The first process keeps its clients; if it does not recover, the connector kills it.

    Args:
        to: The target.
        context: What all connectors of the link share.
    """

    def __init__(self, to: HostPort, context: ConnectorContext) -> None:
        self._to = to
        self._context = context
        self._processes: list[ListeningProcess] = []
        """The running processes that listen on their local ports, newest last."""
        self._waits: dict[ListeningProcess, asyncio.Task[None]] = {}
        """For each process in `_processes`, the task that waits for its exit (`_wait`)."""
        self._starting: asyncio.Task[ListeningProcess] | None = None
        self._in_test: set[ListeningProcess] = set()
        """The processes that `_kill_unless_accepting` currently tests."""
        self._retry = StartBackoff()
        self._tasks = OwnedTasks()

    @property
    def failure(self) -> TunnelError | None:
        """See `TargetConnector.failure`."""
        return None if self._processes else self._retry.failure

    @property
    def is_suspect(self) -> bool:
        """See `TargetConnector.is_suspect`."""
        return bool(self._processes) and self._usable() is None

    @property
    def has_clients(self) -> bool:
        """See `TargetConnector.has_clients`."""
        return self._starting is not None or any(each.connections for each in self._processes)

    async def start(self) -> None:
        """See `TargetConnector.start`."""
        await self._process()

    async def connect(self) -> LocalPortStream:
        """See `TargetConnector.connect`."""
        while True:
            process = next((each for each in self._processes if each.has_unused), None) or await self._process()
            try:
                return LocalPortStream(await process.connect(), process)
            except LocalPortNotAcceptingError:
                continue

    def local_ports(self, now: float) -> dict[int, str]:
        """See `TargetConnector.local_ports`."""
        lost = self._context.options.lost
        return {each.port: each.host for each in self._processes if each.connections or now - each.last_dial < lost}

    def check(self, now: float, ports: Mapping[int, LocalPortState]) -> None:
        """Start another process if none responds. Kill each process that does not recover.

        Stop each process that has no clients and that another process has replaced. See `TargetConnector.check`.
        """
        options = self._context.options
        for process in self._processes:
            process.close_unused(now)
            stalled = process.update_stall(ports.get(process.port) or LocalPortState(), now)
            process.suspect = stalled >= options.suspect
            is_stalled = stalled >= max(options.suspect, options.lost - options.suspect)
            if is_stalled and process not in self._in_test:
                self._in_test.add(process)
                self._tasks.start(self._kill_unless_accepting(process))
        usable = self._usable()
        # Do not start a process while `_wait` has still to record an exit, which can delay the next start.
        is_idle = self._starting is None and not self._exited()
        if usable is None and self._processes and is_idle and self._retry.is_over:
            self._start()
        for process in self._processes:
            if usable not in (None, process) and not (process.connections or process.suspect or process.retired):
                process.retired = True
                self._context.children.end_later(process.child)

    async def close(self) -> None:
        """See `TargetConnector.close`."""
        await self._tasks.close()
        for process in self._processes:
            process.close_unused()
            if not process.connections:
                self._context.children.end_later(process.child)

    async def _kill_unless_accepting(self, process: ListeningProcess) -> None:
        """Kill a process that makes no progress, unless it accepts a test connection.

        If the process accepts the test connection, the process works, and probably the target does not respond.
        """
        try:
            accepts = await process.accepts(self._context.options.suspect)
        finally:
            self._in_test.discard(process)
        if process not in self._processes:
            process.close_unused()
        elif not accepts:
            log.warning(
                "killing a program that does not respond",
                extra={"program": process.name, "target": str(self._to), "seconds": self._context.options.lost},
            )
            process.child.kill()

    def _usable(self) -> ListeningProcess | None:
        for each in reversed(self._processes):
            if not (each.suspect or each.retired) and each.child.exit_code is None:
                return each
        return None

    def _exited(self) -> list[asyncio.Task[None]]:
        """Return the tasks of processes that have exited, but are still in `_processes`."""
        return [self._waits[each] for each in self._processes if each.child.exit_code is not None]

    async def _process(self) -> ListeningProcess:
        """Return a process that accepts connections; start one if there is none."""
        while (usable := self._usable()) is None and (exited := self._exited()):
            await asyncio.shield(exited[0])  # `_wait` records the failure, which can delay the next start
        if usable is not None:
            return usable
        if self._starting is None:
            self._retry.check()
            self._start()
        # Shield the start: it continues even if the caller, such as a check with a timeout, is cancelled.
        return await asyncio.shield(self._starting)  # type: ignore[arg-type]

    def _start(self) -> None:
        self._starting = self._tasks.start(self._start_process())

    async def _start_process(self) -> ListeningProcess:
        context = self._context
        process: ListeningProcess | None = None
        port = 0
        try:
            with starting(context.options.command):
                port = reserve_port()
            command, file = await context.command(self._to, port)
            child = await context.children.start(command, file, context.environment, context.output.on_line)
            process = ListeningProcess(child, command, port, context.options)
            await process.wait_ready()
        except BaseException as error:
            release_port(port)
            if process is not None:
                process.close_unused()
                process.child.kill()
            if isinstance(error, TunnelError):
                self._retry.failed(error)
                context.on_change()
            raise
        else:
            self._retry.started()
            self._processes.append(process)
            self._waits[process] = self._tasks.start(self._wait(process, command))
            return process
        finally:
            self._starting = None

    async def _wait(self, process: ListeningProcess, command: tuple[str, ...]) -> None:
        """Wait until a process exits, and remove it from `_processes`.

        If clients cannot use another process, record a failure, even if the exit code is 0.
        """
        started = time.monotonic()
        try:
            await process.child.wait()
        finally:
            release_port(process.port)
        self._retry.ended(time.monotonic() - started)
        process.close_unused()
        self._processes.remove(process)
        del self._waits[process]
        if not self._processes or (not process.retired and self._usable() is None):
            self._retry.failed(exit_error(command, process.child, self._context.options.login_exit_codes))
        self._context.on_change()
