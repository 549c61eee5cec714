"""Dials the SSH connections that a pool lacks, and delays the next attempt after a failure."""

import asyncio
import contextlib
import logging
import random
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
        """Why the last dial failed; empty after a success, or if the pool needs no more connections."""
        self._server = server
        self._dial = dial
        self._missing = missing
        self._add = add
        self._start_task = start_task
        self._wake = asyncio.Event()
        self._retry_delay = _MIN_RETRY
        self._renewals = 0
        self._renewed = asyncio.Event()

    def wake(self) -> None:
        """Make `run` check immediately whether the pool lacks connections."""
        self._wake.set()

    def renew(self) -> None:
        """Dial again without waiting for the retry delays, because keys or certificates have changed."""
        self._renewals += 1
        self._renewed.set()
        self.wake()

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
        self._renewed.clear()
        renewals = self._renewals
        try:
            connection = await self._dial()
        except Exception as error:
            self.last_error = one_line(str(error))
            expected = isinstance(error, (TargetPathError, OSError))
            # Do not raise an unexpected error: it would close the pool, whose open connections are still in use.
            log.log(
                logging.INFO if expected else logging.ERROR,
                "opening another SSH connection to %s failed: %s", self._server, self.last_error,
                exc_info=not expected,
            )  # fmt: skip
            fatal = not expected or (isinstance(error, TunnelError) and error.fatal)
            pause = _FATAL_RETRY if fatal else random.uniform(0, self._retry_delay)  # noqa: S311 - jitter
            self._retry_delay = min(self._retry_delay * 2, _MAX_RETRY)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._renewed.wait(), pause)
        else:
            self._retry_delay, self.last_error = _MIN_RETRY, ""
            # If the credentials have changed since the dial began, the pool must replace this connection, because the
            # login might have used the old credentials.
            connection.outdated = renewals != self._renewals
            self._add(connection)
