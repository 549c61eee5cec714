"""Connects to a target through programs whose standard input and output are the connection (`mode: stdio`)."""

import asyncio
import logging
import time
from collections.abc import Mapping
from math import inf

from gateway.command.background_tasks import BackgroundTasks
from gateway.command.connector_context import ConnectorContext
from gateway.command.local_port_state import LocalPortState
from gateway.command.stall_timer import StallTimer
from gateway.command.start_backoff import StartBackoff
from gateway.contracts.values import Endpoint
from gateway.errors import TunnelError
from gateway.processes.child_process import exit_error
from gateway.processes.stdio_stream import EXIT_DELAY, StdioStream

log = logging.getLogger(__name__)

_TRIAL = 1.0
"""A trial starts the program, and waits this number of seconds for output or the program's exit. A program that still
runs without output after this time probably waits for the client, so the trial succeeds."""
_TRIAL_AFTER_LOSS = 3.0
"""Like `_TRIAL`, but for the first connection of a tunnel. Longer, because the program might have failed before."""
_SPARE_TIMEOUT = 5.0
"""Seconds after which the connection of a successful trial (see `_TRIAL`) is closed if no client has used it."""


class StdioConnector:
    """Starts one process for each connection to a target; implements `TargetConnector`.

    Args:
        to: The target.
        context: The options and helpers that all connectors of the link share.
    """

    def __init__(self, to: Endpoint, context: ConnectorContext) -> None:
        self._to = to
        self._context = context
        self._streams: dict[StdioStream, StallTimer] = {}
        """The streams of the running processes."""
        self._spare: tuple[StdioStream, float] | None = None
        """The connection of a successful trial, which the next client uses, and the monotonic time, in seconds, at
        which the trial ended."""
        self._trial: asyncio.Task[None] | None = None
        self._has_worked = False
        """Whether the last connection worked. If not, the next connection is tested first (see `_TRIAL`)."""
        self._retry = StartBackoff()
        self._tasks = BackgroundTasks()

    @property
    def failure(self) -> TunnelError | None:
        """See `TargetConnector`."""
        return self._retry.failure

    @property
    def has_failed(self) -> bool:
        """See `TargetConnector`."""
        # A running program without output can still serve its client, for example during an upload.
        return self.failure is not None and not self._streams

    @property
    def is_suspect(self) -> bool:
        """Always False, because each new connection starts its own process. See `TargetConnector`."""
        return False

    @property
    def has_clients(self) -> bool:
        """See `TargetConnector`."""
        return bool(self._streams) or self._trial is not None

    async def start(self) -> None:
        """See `TargetConnector`."""
        await self._try_once(_TRIAL_AFTER_LOSS)

    async def connect(self) -> StdioStream:
        """See `TargetConnector`."""
        if not self._has_worked:
            await self._try_once(_TRIAL)
        self._close_unused(time.monotonic())
        spare, self._spare = self._spare, None
        return spare[0] if spare is not None else await self._open()

    def local_ports(self, now: float) -> dict[int, str]:
        """Return an empty mapping, because the programs use no local ports. See `TargetConnector`."""
        del now
        return {}

    def check(self, now: float, ports: Mapping[int, LocalPortState]) -> None:
        """Kill each process that has not responded for the time `CommandOptions.lost`. See `TargetConnector`."""
        del ports
        self._close_unused(now)
        for stream, timer in self._streams.items():
            silence = timer.update(now, stream.last_progress(now), waits=stream.unread > 0)
            if silence >= self._context.options.lost:
                log.warning(
                    "killing a program that does not respond",
                    extra={"program": self._context.name, "target": str(self._to), "seconds": round(silence)},
                )
                stream.child.kill()

    async def close(self) -> None:
        """See `TargetConnector`."""
        await self._tasks.close()
        self._close_unused()

    def _close_unused(self, now: float = inf) -> None:
        """Close the connection of a trial if its process has exited, or if no client has used it for five seconds.

        Args:
            now: Monotonic time in seconds. The default closes the connection regardless of its age.
        """
        if self._spare is None:
            return
        stream, since = self._spare
        if stream.child.exit_code is not None or now - since > _SPARE_TIMEOUT:
            stream.abort()
            self._spare = None

    async def _try_once(self, seconds: float) -> None:
        """Open and test a connection for the next client. If a trial is already in progress, wait for its result.

        Args:
            seconds: Seconds to wait for output or the exit of the program, see `_TRIAL`.

        Raises:
            TunnelError: The program failed, or the delay after a failure has not passed.
        """
        if self._trial is None:
            self._retry.check()
            self._trial = self._tasks.start(self._run_trial(seconds))
        # Shield the trial: it continues even if the caller, such as a check with a timeout, is cancelled.
        await asyncio.shield(self._trial)

    async def _run_trial(self, seconds: float) -> None:
        try:
            stream = await self._open()
            try:
                await self._check_trial(stream, seconds)
            except BaseException:
                stream.abort()
                raise
            self._has_worked = True
            self._retry.started()
            self._close_unused()
            self._spare = stream, time.monotonic()
        finally:
            self._trial = None

    async def _check_trial(self, stream: StdioStream, seconds: float) -> None:
        """Wait at most `seconds` for output. Raise `TunnelError` if the program exits without output."""
        try:
            async with asyncio.timeout(seconds):
                await stream.wait_readable()
        except TimeoutError:
            return
        if not stream.has_output and await stream.child.exits_within(EXIT_DELAY):
            self._streams.pop(stream, None)  # remove the stream, so that `_wait` does not count the failure again
            error = exit_error(stream.command, stream.child, self._context.options.login_exit_codes)
            self._on_failure(error)
            raise error

    async def _open(self) -> StdioStream:
        context = self._context
        try:
            command, file = await context.command(self._to)
            stream = await StdioStream.start(
                context.children, command, file, context.environment, context.output.on_line
            )
        except TunnelError as error:
            self._on_failure(error)
            raise
        self._streams[stream] = StallTimer()
        self._tasks.start(self._wait(stream))
        return stream

    async def _wait(self, stream: StdioStream) -> None:
        """Wait until a process exits. If it failed without output, record a failure of the target.

        A program can also fail because its client ended the connection early. In this case, the cause is unknown, and
        the next connection starts with a trial.
        """
        code = await stream.child.wait()
        if self._streams.pop(stream, None) is None:
            return
        login_exit_codes = self._context.options.login_exit_codes
        if stream.received or stream.has_output:
            self._has_worked = True
            self._retry.delivered()
        elif code == 0 or stream.child.was_stopped:
            return
        elif stream.accepts_input or code in login_exit_codes:
            self._on_failure(exit_error(stream.command, stream.child, login_exit_codes))
        else:
            self._has_worked = False

    def _on_failure(self, error: TunnelError) -> None:
        self._has_worked = False
        self._retry.failed(error)
        self._context.on_change()
