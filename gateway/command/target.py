"""Defines the interface that the modes `port` and `stdio` implement for each target, and the helpers they share."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gateway.backoff import RECONNECT, Backoff
from gateway.command.local_ports import LocalPort
from gateway.command.options import CommandOptions
from gateway.contracts.values import Endpoint
from gateway.errors import GatewayError, Reason, TunnelError
from gateway.processes.child_process import starting
from gateway.processes.output_log import OutputLog
from gateway.processes.program_lookup import LookupTimeoutError, look_up_program
from gateway.processes.programs import environment_of_user, fill_placeholders
from gateway.processes.tunnel_processes import TunnelProcesses
from gateway.relay.stream_bridge import BridgedStream

_FATAL_RETRY = 60.0
"""Seconds between a fatal failure, such as a failed login, and the next attempt."""


@dataclass(frozen=True)
class CommandContext:
    """The options and helpers that all targets of one link share.

    Args:
        options: The options of the tunnel.
        children: Owns the child processes.
        output: Logs the output of the program.
        on_change: Called after a process failed or exited.
    """

    options: CommandOptions
    children: TunnelProcesses
    output: OutputLog
    on_change: Callable[[], None]

    @property
    def name(self) -> str:
        """The name of the program."""
        return Path(self.options.command[0]).name

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the program."""
        return environment_of_user(self.options.environment)

    async def command(self, to: Endpoint, local_port: int = 0) -> tuple[tuple[str, ...], str]:
        """Return the command line for a target, and the path of the file to execute.

        Args:
            to: The target.
            local_port: The port on which the program must listen; 0 in mode `stdio`.

        Raises:
            TunnelError: The program does not exist, or another user can change it (fatal); or finding the program in
                the file system took more than half of `start_timeout` (not fatal).
        """
        template = self.options.command
        try:
            with starting(template):
                program = await look_up_program(template, self.options.start_timeout / 2)
        except LookupTimeoutError as error:
            raise TunnelError(Reason.TIMEOUT, f"command: {error} (half of start_timeout)") from error
        except TunnelError:
            raise
        except GatewayError as error:
            raise TunnelError(Reason.PROTOCOL, f"command: {error}", fatal=True) from error
        values = {"host": to.host, "port": str(to.port), "local_port": str(local_port)}
        return (program.name, *fill_placeholders(template[1:], values)), program.file


class CommandTarget(Protocol):
    """Connects to one target through a program. Each mode implements this interface."""

    @property
    def has_failed(self) -> bool:
        """Whether the last attempt failed and no process is running."""

    @property
    def is_suspect(self) -> bool:
        """Whether processes are running, but none of them responds."""

    @property
    def failure(self) -> TunnelError | None:
        """The last failure; None if the last attempt succeeded."""

    @property
    def has_clients(self) -> bool:
        """Whether a connection is open or is being opened."""

    async def start(self) -> None:
        """Start a process, and wait until it works. Raises `TunnelError` if it fails."""

    async def connect(self) -> BridgedStream:
        """Return a new connection to the target, which the caller owns. Raises `TunnelError` or `DialError`."""

    def local_ports(self, now: float) -> dict[int, str]:
        """Return the local ports whose state `check` needs.

        Args:
            now: Monotonic time in seconds.

        Returns:
            The loopback address that the gateway dials, by port.
        """

    def check(self, now: float, ports: Mapping[int, LocalPort]) -> None:
        """Replace or kill processes that do not respond. The link calls this method periodically.

        Args:
            now: Monotonic time in seconds.
            ports: The state of the ports from `local_ports`.
        """

    async def close(self) -> None:
        """Stop all tasks, and stop processes without clients. `TunnelProcesses` stops the other processes."""


class RetryPause:
    """Decides how long to wait after a failure before the next attempt to start a program."""

    def __init__(self) -> None:
        self.failure: TunnelError | None = None
        self._backoff = Backoff(RECONNECT)
        self._retry_at = 0.0

    def started(self) -> None:
        """Allow the next attempt immediately. The count of failures remains: the next failure extends the backoff."""
        self.failure = None

    def delivered(self) -> None:
        """Allow the next attempt immediately, and reset the backoff, because the target has sent data."""
        self.failure, self._backoff = None, Backoff(RECONNECT)

    def ended(self, lasted: float) -> None:
        """Reduce the count of failures, because a process ran for `lasted` seconds before it exited."""
        self._backoff.succeeded(lasted)

    def failed(self, error: TunnelError) -> None:
        """Store a failure, and start the delay before the next attempt."""
        pause = self._backoff.next()
        self.failure, self._retry_at = error, time.monotonic() + (_FATAL_RETRY if error.fatal else pause)

    @property
    def is_over(self) -> bool:
        """Whether the delay has passed, so that the next attempt is allowed."""
        return self.failure is None or time.monotonic() >= self._retry_at

    def check(self) -> None:
        """Raise the last failure again if the delay has not passed."""
        if self.failure is not None and not self.is_over:
            # Raise a copy: each `raise` of the same exception would extend its traceback.
            raise TunnelError(self.failure.reason, self.failure.detail, fatal=self.failure.fatal)


class BackgroundTasks:
    """Runs background tasks, and cancels them on `close`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, job: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine in a task, and return the task. Do not log exceptions: the caller can await the task."""
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # mark the exception as retrieved: otherwise, asyncio logs it

    async def close(self) -> None:
        """Cancel the tasks, and wait until they have ended."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks.copy())
