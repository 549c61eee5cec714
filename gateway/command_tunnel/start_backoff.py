"""Delays the next attempt to start a program after a failure. The delay grows with each failure."""

import time

from gateway.backoff import RECONNECT, Backoff
from gateway.errors import TunnelError

_FATAL_RETRY = 60.0
"""Seconds between a fatal failure, such as a failed login, and the next attempt to start the program."""


class StartBackoff:
    """Delays the next attempt to start a program after a failure, and stores the last failure."""

    def __init__(self) -> None:
        self.failure: TunnelError | None = None
        self._backoff = Backoff(RECONNECT)
        self._retry_at = 0.0

    def started(self) -> None:
        """Record that a process has started: allow the next start immediately, but do not reset the backoff."""
        self.failure = None

    def delivered(self) -> None:
        """Record that the target has sent data: allow the next start immediately, and reset the backoff."""
        self.failure, self._backoff = None, Backoff(RECONNECT)

    def ended(self, lasted: float) -> None:
        """Record that a process exited after `lasted` seconds. After a long run, the next delay is short."""
        self._backoff.succeeded(lasted)

    def failed(self, error: TunnelError) -> None:
        """Store a failure, and delay the next attempt to start a program."""
        delay = self._backoff.next()
        self.failure, self._retry_at = error, time.monotonic() + (_FATAL_RETRY if error.fatal else delay)

    @property
    def is_over(self) -> bool:
        """Whether a program may be started: no failure is stored, or the delay after the failure has passed."""
        return self.failure is None or time.monotonic() >= self._retry_at

    def check(self) -> None:
        """Check that a program may be started.

        Raises:
            TunnelError: `is_over` is false. The error is a copy of the stored failure.
        """
        if self.failure is not None and not self.is_over:
            # Raise a copy: each `raise` of the same exception would extend its traceback.
            raise TunnelError(self.failure.reason, self.failure.detail, fatal=self.failure.fatal)
