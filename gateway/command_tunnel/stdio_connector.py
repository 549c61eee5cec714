"""Connects to a target through programs whose standard input and output are the connection (`mode: stdio`)."""

import asyncio
import logging
import time
from collections.abc import Mapping
from math import inf

from gateway.command_tunnel.connector_context import ConnectorContext
from gateway.command_tunnel.local_port_state import LocalPortState
from gateway.command_tunnel.owned_tasks import OwnedTasks
from gateway.command_tunnel.stall_timer import StallTimer
from gateway.command_tunnel.start_backoff import StartBackoff
from gateway.contracts.config_types import HostPort
from gateway.errors import TunnelError
from gateway.processes.child_process import exit_error
from gateway.processes.stdio_stream import EXIT_DELAY, StdioStream

log = logging.getLogger(__name__)

_TEST_DURATION = 1.0
"""Maximum time, in seconds, that a test waits for the program to write output or to exit. A program that does neither
passes the test, because it probably waits for data from the client."""
_FIRST_TEST_DURATION = 3.0
"""Like `_TEST_DURATION`, but for the test when the tunnel opens. This test is longer, so that it also detects a
program that fails slowly."""
_UNUSED_TIMEOUT = 5.0
"""Seconds after which a tested connection is closed if no client has used it."""


class StdioConnector:
    """Starts one process for each connection to a target; implements `TargetConnector`.

    Until one connection has worked, and after a failed connection, the connector tests each new connection before a
    client uses it. For this test, the connector starts the program, and waits a short time for output. If the program
    exits without output, the client gets an error instead of a useless connection.

    Args:
        to: The target.
        context: What all connectors of the link share.
    """

    def __init__(self, to: HostPort, context: ConnectorContext) -> None:
        self._to = to
        self._context = context
        self._streams: dict[StdioStream, StallTimer] = {}
        """The streams of the running processes."""
        self._tested: tuple[StdioStream, float] | None = None
        """A tested connection for the next client, and the monotonic time of the test in seconds; None if there is no
        tested connection."""
        self._test: asyncio.Task[None] | None = None
        self._has_worked = False
        """Whether a connection has worked, and none has failed since. If False, the next connection is tested."""
        self._retry = StartBackoff()
        self._tasks = OwnedTasks()

    @property
    def failure(self) -> TunnelError | None:
        """See `TargetConnector.failure`."""
        # Report no failure while a program is running. A program can also work without output, for example during an
        # upload.
        return None if self._streams else self._retry.failure

    @property
    def is_suspect(self) -> bool:
        """Always False, because each new connection starts its own process. See `TargetConnector.is_suspect`."""
        return False

    @property
    def has_clients(self) -> bool:
        """See `TargetConnector.has_clients`."""
        return bool(self._streams) or self._test is not None

    async def start(self) -> None:
        """See `TargetConnector.start`."""
        await self._test_connection(_FIRST_TEST_DURATION)

    async def connect(self) -> StdioStream:
        """See `TargetConnector.connect`."""
        if not self._has_worked:
            await self._test_connection(_TEST_DURATION)
        self._close_unused(time.monotonic())
        tested, self._tested = self._tested, None
        return tested[0] if tested is not None else await self._open()

    def local_ports(self, now: float) -> dict[int, str]:
        """Return an empty mapping, because the programs use no local ports. See `TargetConnector.local_ports`."""
        del now
        return {}

    def check(self, now: float, ports: Mapping[int, LocalPortState]) -> None:
        """Kill each process that has made no progress for too long. See `TargetConnector.check`."""
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
        """See `TargetConnector.close`."""
        await self._tasks.close()
        self._close_unused()

    def _close_unused(self, now: float = inf) -> None:
        """Close the tested connection if its process has exited, or if no client has used it for five seconds.

        Args:
            now: Monotonic time in seconds. If omitted, the method closes the connection immediately.
        """
        if self._tested is None:
            return
        stream, since = self._tested
        if stream.child.exit_code is not None or now - since > _UNUSED_TIMEOUT:
            stream.abort()
            self._tested = None

    async def _test_connection(self, seconds: float) -> None:
        """Open and test a connection for the next client. If a test is already in progress, wait for its result."""
        if self._test is None:
            self._retry.check()
            self._test = self._tasks.start(self._run_test(seconds))
        # Shield the test: it continues even if the caller, such as a check with a timeout, is cancelled.
        await asyncio.shield(self._test)

    async def _run_test(self, seconds: float) -> None:
        try:
            stream = await self._open()
            try:
                await self._check_output(stream, seconds)
            except BaseException:
                stream.abort()
                raise
            self._has_worked = True
            self._retry.started()
            self._close_unused()
            self._tested = stream, time.monotonic()
        finally:
            self._test = None

    async def _check_output(self, stream: StdioStream, seconds: float) -> None:
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
        """Wait until a process exits. Record a success if it printed data, or a failure if it failed without output.

        If the client ended the connection before the failure, the cause of the failure is unknown, unless the exit
        code is one of `login_exit_codes`. If the cause is unknown, record no failure, but test the next connection.
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
