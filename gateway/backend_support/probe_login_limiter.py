"""Limits the logins of probes, so that the server does not block the gateway after aborted logins. Does no I/O.

If the server does not respond, a probe aborts its login at the deadline. A server that was suspended counts these
aborts when it resumes. If the count reaches `max_connect_errors`, the server blocks the source address (MySQL
Reference Manual, "The Host Cache").
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from gateway.backend_support.aborted_login_count import AbortedLoginCount

_FREE_DIVISOR = 4
"""The limiter pauses logins when the number of aborted logins exceeds `limit` divided by this number."""
_FIRST_PAUSE, _MAX_PAUSE = 10.0, 600.0
"""First and maximum duration of a pause, in seconds. Each further aborted login doubles the duration. If n tunnels
to the server fail, the maximum duration is `n * _MAX_PAUSE`."""


class ProbeLoginLimiter(AbortedLoginCount):
    """Limits the logins of probes to one server through one tunnel. Pauses logins after too many aborts.

    Implements `gateway.contracts.login_limiter.LoginLimiter`. All times are monotonic.

    Args:
        limit: The number of aborted logins at which the server blocks the source address.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.in_progress = 0
        """Number of this tunnel's logins in progress. `attempt` adds this number to the number of aborted logins,
        because each login in progress can still be aborted."""
        self._turn = asyncio.Lock()
        self._not_before = 0.0

    @property
    def _free(self) -> int:
        return max(1, self.limit // _FREE_DIVISOR)

    @contextlib.asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """Wait until a login can start. The login counts as in progress until the `async with` block ends.

        If the sum of aborted logins and logins in progress reaches `limit / _FREE_DIVISOR`, logins run one at a time,
        so that only a few can be aborted at once. Otherwise, logins run concurrently.
        """
        possible = self.aborted + sum(each.in_progress for each in self.same_server)
        async with self._turn if possible >= self._free else contextlib.nullcontext():
            self.in_progress += 1
            try:
                yield
            finally:
                self.in_progress -= 1

    def record_abort(self, now: float) -> None:
        """Record a login that was aborted at the time `now`. Start a pause if too many logins were aborted."""
        self.add_abort(now)
        excess = self.aborted - self._free
        if excess > 0:
            failing = sum(each.aborted_after(each.last_login) > 0 for each in self.same_server)
            self._not_before = now + min(_FIRST_PAUSE * 2.0 ** (excess - 1), _MAX_PAUSE * failing)

    def record_success(self, now: float) -> None:
        """Record a successful login at the time `now`, and end the pause."""
        self.reset(now)
        self._not_before = 0.0

    def pause(self, now: float) -> float:
        """Return the number of seconds from the time `now` until the next login may start; 0 if it may start now."""
        return max(0.0, self._not_before - now)
