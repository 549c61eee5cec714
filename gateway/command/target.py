"""Defines what the modes `port` and `stdio` share: the interface of a target, and the pause after a failure."""

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
"""Seconds between a failed login and the next attempt."""


@dataclass(frozen=True)
class CommandContext:
    """The options and helpers that all targets of one link share.

    Args:
        options: The options of the tunnel.
        children: Owns the child processes.
        output: Logs what the program prints.
        on_change: Called when a process has failed.
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
        """Return the command for a target, and the path of the file to execute.

        Args:
            to: The target.
            local_port: The port on which the program listens.

        Raises:
            TunnelError: The program does not exist, or another user can change it (fatal); or the file system does
                not answer within half of `start_timeout`. The other half is for the start.
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
        """Whether the last attempt failed and no process works."""

    @property
    def is_suspect(self) -> bool:
        """Whether each process that works does not answer."""

    @property
    def failure(self) -> TunnelError | None:
        """The last failure; None after a success."""

    @property
    def has_clients(self) -> bool:
        """Whether a connection is open or starts."""

    async def start(self) -> None:
        """Start a process. Raises `TunnelError` if it does not work."""

    async def connect(self) -> BridgedStream:
        """Return a new connection. Raises `TunnelError` or `DialError`."""

    def local_ports(self, now: float) -> dict[int, str]:
        """Return the local ports on which data can wait for a process, with the address that the gateway dials."""

    def check(self, now: float, ports: Mapping[int, LocalPort]) -> None:
        """Decide what to do about processes that do not answer."""

    async def close(self) -> None:
        """Stop all tasks. The processes without clients end; the owner of the child processes stops the others."""


class RetryPause:
    """Decides when the next attempt is allowed after a failure."""

    def __init__(self) -> None:
        self.failure: TunnelError | None = None
        self._backoff = Backoff(RECONNECT)
        self._retry_at = 0.0

    def started(self) -> None:
        """Allow the next attempt immediately. The backoff keeps its count of failures."""
        self.failure = None

    def delivered(self) -> None:
        """Allow the next attempt immediately, and reset the backoff, because the target has sent data."""
        self.failure, self._backoff = None, Backoff(RECONNECT)

    def ended(self, lasted: float) -> None:
        """Reduce the count of failures after the end of a process that worked for `lasted` seconds."""
        self._backoff.succeeded(lasted)

    def failed(self, error: TunnelError) -> None:
        """Store a failure, and start the pause."""
        pause = self._backoff.next()
        self.failure, self._retry_at = error, time.monotonic() + (_FATAL_RETRY if error.fatal else pause)

    @property
    def is_over(self) -> bool:
        """Whether the next attempt is allowed."""
        return self.failure is None or time.monotonic() >= self._retry_at

    def check(self) -> None:
        """Raise the last failure during the pause."""
        if self.failure is not None and not self.is_over:
            # A new object, because each `raise` adds to the traceback of the object.
            raise TunnelError(self.failure.reason, self.failure.detail, fatal=self.failure.fatal)


class OwnedTasks:
    """Runs background tasks, and cancels them when their owner closes."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, job: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a job in a task. The owner handles the errors of the job."""
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # mark it as retrieved, because possibly no task waits for it

    async def close(self) -> None:
        """Cancel the tasks and wait for them."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks.copy())
