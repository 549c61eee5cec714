"""Dials the SSH connections that a pool lacks, and delays the next attempt after a failure."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine

from gateway.contracts.config_types import HostPort
from gateway.errors import TargetPathError, TunnelError
from gateway.ssh.pooled_connection import PooledConnection
from gateway.text_sanitizer import one_line

log = logging.getLogger(__name__)

_MIN_RETRY, _MAX_RETRY = 0.25, 10.0
"""The retry delay is random, between zero and a bound in seconds. The bound is initially `_MIN_RETRY`, doubles after
each failure, and never exceeds `_MAX_RETRY`."""
_FATAL_RETRY = 60.0
"""Retry delay after a refused login, in seconds. The delay is long because sshd penalizes repeated failures
(sshd_config(5), PerSourcePenalties)."""

_STABLE = 10.0
"""If a connection lasts for at least this number of seconds, its loss resets the bound of the retry delay."""

DialConnection = Callable[[], Awaitable[PooledConnection]]


class PoolDialer:
    """Dials the SSH connections that one pool lacks, concurrently.

    Args:
        server: The server's address, for the log.
        dial: Opens a connection. Raises `TargetPathError` on failure.
        missing: Returns the number of connections that the pool lacks. A connection that is being dialed counts as
            missing.
        add: Adds an open connection to the pool, which then owns the connection.
        start_task: Starts a task for a coroutine. The pool owns the task and handles its errors.
    """

    def __init__(
        self,
        server: HostPort,
        dial: DialConnection,
        missing: Callable[[], int],
        add: Callable[[PooledConnection], None],
        start_task: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
    ) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        """The tasks that dial, or wait before the next attempt."""
        self.last_error = ""
        """Why the last dial failed, or why the last connection was lost soon after its login. Empty after a success,
        or if the pool needs no more connections."""
        self._server = server
        self._dial = dial
        self._missing = missing
        self._add = add
        self._start_task = start_task
        self._wake = asyncio.Event()
        self._retry_delay = _MIN_RETRY
        self._not_before = 0.0
        self._renewed = asyncio.Event()
        """Set at the next renewal, which replaces it by a new event."""

    def wake(self) -> None:
        """Make `run` check immediately whether the pool lacks connections."""
        self._wake.set()

    def renew(self) -> None:
        """Dial again without waiting for the retry delays, because keys or certificates have changed."""
        self._renewed.set()
        self._renewed = asyncio.Event()
        self._not_before = 0.0
        self.wake()

    def on_lost(self, lasted: float, why: str) -> None:
        """Handle the loss of a connection: check whether the pool now lacks connections.

        If the connection was lost soon after its login, delay the next login. Some servers accept a login, and then
        close the connection because of a limit on the number of sessions.

        Args:
            lasted: How long the connection was in the pool, in seconds.
            why: Why the connection was lost.
        """
        if lasted >= _STABLE:
            self._retry_delay = _MIN_RETRY
        else:
            self.last_error = one_line(why)
            self._not_before = time.monotonic() + self._next_pause()
        self.wake()

    def _next_pause(self) -> float:
        """Return a random delay before the next attempt, in seconds, and double the upper bound for later delays."""
        pause = random.uniform(0, self._retry_delay)  # noqa: S311 - jitter
        self._retry_delay = min(self._retry_delay * 2, _MAX_RETRY)
        return pause

    async def run(self) -> None:
        """Dial the connections that the pool lacks, concurrently, until cancelled."""
        while True:
            self._wake.clear()
            while self._missing() > len(self.tasks):
                task = self._start_task(self._dial_one())
                self.tasks.add(task)
                task.add_done_callback(self._on_done)
            await self._wake.wait()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self.wake()

    async def _dial_one(self) -> None:
        """Try once to open a connection, and add it to the pool. If the attempt fails, wait for the retry delay."""
        renewed = self._renewed
        await _wait(renewed, self._not_before - time.monotonic())
        renewed = self._renewed
        try:
            connection = await self._dial()
        except Exception as error:
            self.last_error = one_line(str(error))
            expected = isinstance(error, (TargetPathError, OSError))
            # Catch unexpected errors also: they would close the pool, whose open connections are still in use.
            log.log(
                logging.INFO if expected else logging.ERROR,
                "opening another SSH connection to %s failed: %s", self._server, self.last_error,
                exc_info=not expected,
            )  # fmt: skip
            fatal = not expected or (isinstance(error, TunnelError) and error.fatal)
            pause = self._next_pause()
            await _wait(renewed, _FATAL_RETRY if fatal else pause)
        else:
            self.last_error = ""
            # If the credentials have changed since the dial began, the pool must replace this connection, because the
            # login might have used the old credentials.
            connection.outdated = renewed.is_set()
            self._add(connection)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait until an event occurs; at most for a number of seconds."""
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
