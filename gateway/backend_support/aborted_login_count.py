"""Estimates the number of aborted logins that a server has counted for the gateway's address. Does no I/O.

MySQL counts aborted logins by source address, and a successful login resets the count of its address (MySQL Reference
Manual, "The Host Cache"). The gateway does not know the source addresses of its logins. Several tunnels to one server
can have separate addresses, or share one address behind NAT.
"""

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Self

_MAX_COUNT = 10_000


class AbortedLoginCount:
    """Estimates how many aborted logins a server has counted for one tunnel. All times are monotonic, in seconds."""

    def __init__(self: Self) -> None:
        self.same_server: Sequence[Self] = [self]
        """The `AbortedLoginCount` objects of all tunnels to the server, including this object."""
        self.last_login = -inf
        """The time of the latest successful login through this tunnel."""
        self._aborted: deque[float] = deque(maxlen=_MAX_COUNT)
        """The times of the aborted logins since `last_login`."""

    @property
    def aborted(self) -> int:
        """The highest number of aborted logins that the server can have counted for this tunnel.

        The server counts by source address, and the gateway does not know which tunnels share this tunnel's address.
        For each group of tunnels that can share the address, count the group's aborted logins since the group's
        latest successful login. The result is the highest of these counts.
        """
        last_logins = {each.last_login for each in self.same_server if each.last_login >= self.last_login}
        return max(
            sum(each.aborted_after(login) for each in self.same_server if each.last_login <= login)
            for login in last_logins
        )

    def aborted_after(self, at: float) -> int:
        """Return how many logins through this tunnel were aborted after the time `at`."""
        return len(self._aborted) if at == self.last_login else sum(each > at for each in self._aborted)

    def add_abort(self, at: float) -> None:
        """Count a login that was aborted at the time `at`."""
        self._aborted.append(at)

    def reset(self, at: float) -> None:
        """Record a successful login at the time `at`, and discard earlier aborts. Other tunnels keep their counts."""
        if at > self.last_login:
            self.last_login = at
            self._aborted = deque((each for each in self._aborted if each > at), maxlen=_MAX_COUNT)
