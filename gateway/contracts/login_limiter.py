"""Defines the interface of login limiters.

They limit the logins of probes, because a server can block a client after too many aborted logins.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class LoginLimiter(Protocol):
    """Defines the interface of a login limiter for one server and one tunnel. Times are monotonic, in seconds."""

    @property
    def aborted(self) -> int:
        """The highest number of aborted logins that the server can have counted since the last successful login."""

    def attempt(self) -> AbstractAsyncContextManager[None]:
        """Return a context manager for one login.

        If many logins were aborted or are in progress, logins run one at a time: `async with` waits for its turn.
        """

    def pause(self, now: float) -> float:
        """Return how long the next login must wait, in seconds. `now` is the current time."""

    def record_abort(self, now: float) -> None:
        """Record a login that was aborted at the time `now`."""

    def record_success(self, now: float) -> None:
        """Record a successful login at the time `now`. The login resets the server's count of aborted logins to 0."""
