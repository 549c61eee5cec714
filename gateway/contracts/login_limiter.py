"""Defines the interface that limits the logins of probes, because servers can block clients after aborted logins."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class LoginLimiter(Protocol):
    """Defines the limiter for the logins of probes to one server through one tunnel. All times are monotonic."""

    @property
    def aborted(self) -> int:
        """The highest number of aborted logins that the server can have counted since the last successful login."""

    def attempt(self) -> AbstractAsyncContextManager[None]:
        """Return a context manager for one login. `async with` waits if too many other logins are in progress."""

    def pause(self, now: float) -> float:
        """Return how many seconds after the time `now` the next login can start; 0 if it can start immediately."""

    def record_abort(self, now: float) -> None:
        """Record a login that was aborted at the time `now`."""

    def record_success(self, now: float) -> None:
        """Record a successful login at the time `now`. The login resets the server's count of aborted logins to 0."""
