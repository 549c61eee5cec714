"""Runs the child processes of one tunnel, and stops them when the tunnel closes.

If the gateway is killed, a watchdog process kills the child processes.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from gateway.processes import process_group_watchdog
from gateway.processes.child_process import ChildProcess

log = logging.getLogger(__name__)

_END_TIMEOUT = 5.0
"""Seconds to wait for the exit of a program after its connection has ended. In this time, the program can deliver its
last data."""
_SLOW_END_TIMEOUT = 55.0
"""Additional seconds for a program that still runs after `_END_TIMEOUT`, for example because its network is slow. At
most `_MAX_SLOW` programs get this additional time simultaneously."""
_MAX_SLOW = 16
_RESTART_PAUSE = 1.0
_WATCHDOG_TIMEOUT = 3.0
"""Seconds to wait for the watchdog to exit after the end of its input."""


class TunnelProcesses:
    """Runs the child processes of one tunnel, each in a separate process group, until the `async with` block exits.

    If the gateway is killed, a watchdog process kills all processes in these groups.
    """

    def __init__(self) -> None:
        self._running: dict[ChildProcess, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._slow = 0
        """Number of programs that are currently using the additional time `_SLOW_END_TIMEOUT`."""
        self._watchdog = _WatchdogProcess()

    def __len__(self) -> int:
        return len(self._running)

    async def start(
        self,
        command: Sequence[str],
        file: str,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        stdin: int = asyncio.subprocess.DEVNULL,
        stdout: int = asyncio.subprocess.STDOUT,
    ) -> ChildProcess:
        """Start a program; see `ChildProcess.start`.

        Args:
            command: The name of the program (`PermissionCheckedProgram.name`), and its arguments.
            file: The file to execute (`PermissionCheckedProgram.file`).
            environment: Variables to add to `minimal_environment`.
            on_line: Called with each line of output.
            stdin: The file descriptor of the standard input.
            stdout: The file descriptor of the standard output.

        Raises:
            TunnelError: The system cannot start another process.
        """
        child = await ChildProcess.start(command, "", on_line, environment, stdin=stdin, stdout=stdout, file=file)
        self._watchdog.add(child.pid)
        self._running[child] = asyncio.create_task(self._wait(child))
        return child

    def end_later(self, child: ChildProcess) -> None:
        """Start a task that stops a process if it does not exit in time.

        The time limit is 5 seconds. If the process still runs then, it gets 55 more seconds, unless `_MAX_SLOW` other
        processes are already using such additional time.
        """
        if child in self._running:
            task = asyncio.create_task(self._end(child))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end(self, child: ChildProcess) -> None:
        ended = await child.exits_within(_END_TIMEOUT)
        if not ended and self._slow < _MAX_SLOW:
            self._slow += 1
            try:
                ended = await child.exits_within(_SLOW_END_TIMEOUT)
            finally:
                self._slow -= 1
        if not ended:
            await child.stop()

    async def _wait(self, child: ChildProcess) -> None:
        """Wait for the exit of a process, then stop the other processes of its group."""
        try:
            await child.wait()
            await child.stop()
        finally:
            child.kill()  # kill the process group if a cancellation interrupted `wait` or `stop`
            self._watchdog.remove(child.pid)
            del self._running[child]

    async def __aenter__(self) -> Self:
        self._watchdog.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._running or self._ending:
                await asyncio.gather(*(child.stop() for child in self._running))
                await asyncio.gather(*self._running.values(), *self._ending)
        finally:
            # Some processes still run if a second cancellation interrupted the calls of `stop`.
            for child in self._running:
                child.kill()
            await self._watchdog.stop()


class _WatchdogProcess:
    """Runs the helper program `process_group_watchdog.py`, and restarts it if it exits."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._input: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def add(self, group: int) -> None:
        self._groups.add(group)
        self._send(f"+{group}")

    def remove(self, group: int) -> None:
        self._groups.discard(group)
        self._send(f"-{group}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _send(self, line: str) -> None:
        if self._input is not None:
            self._input.write(f"{line}\n".encode())

    async def _run(self) -> None:
        while True:
            try:
                await self._run_once()
            except OSError as error:
                log.warning(
                    "cannot start the watchdog, which kills child processes if the gateway is killed: %s; retrying",
                    error,
                )
            await asyncio.sleep(_RESTART_PAUSE)

    async def _run_once(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", process_group_watchdog.__file__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            self._input = process.stdin
            for group in self._groups:
                self._send(f"+{group}")
            code = await process.wait()
            log.warning("the watchdog of child processes exited: restarting it", extra={"code": code})
        finally:
            await self._end(process)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if self._input is not None:
            self._input.close()
            self._input = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WATCHDOG_TIMEOUT):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
