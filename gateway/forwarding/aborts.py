"""How many handshakes may still be broken off before a server refuses everybody behind our address. Pure.

MySQL counts connections that break off during their handshake by source address, and at `max_connect_errors` refuses
that address altogether, with error 1129, until somebody flushes its host cache; a login starts the count anew (MySQL
Reference Manual, "The Host Cache"). Through a bastion the address is everybody's: one client that connects and goes
away, again and again, would take the database from all of them.
"""

from collections import deque

_SINGLE_FILE = 0.9
"""The share of the limit after which clients are let in one by one."""
_ONE_EVERY = 10.0
"""Seconds between two of them, unless a login succeeds: what is left lasts longer, and a good client ends it."""
_MOST = 10_000
_SETTLED_AFTER = 10.0
"""Seconds in which a dial that was given up connects, or its silent SSH connection is closed: the server may count it
after a login that comes before that."""
LOGGED_IN = 2
"""Answers after which a client is certainly in: to its login, and to something that it asked then."""


class AbortBudget:
    """The count of one server, as seen from one tunnel.

    Args:
        limit: At how many the server refuses us.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._broken: deque[float] = deque(maxlen=_MOST)
        self._next = 0.0

    @property
    def broken(self) -> int:
        """Handshakes broken off since the last login that is known of."""
        return len(self._broken)

    def broke_off(self, at: float) -> None:
        """A client left at the time `at`, before it was certainly in."""
        self._broken.append(at)

    def given_up(self, at: float) -> None:
        """A dial was given up at the time `at`, and may still connect: its handshake is broken off then."""
        self._broken.append(at + _SETTLED_AFTER)

    def logged_in(self, at: float) -> None:
        """A login succeeded at the time `at`; the server forgets what was before."""
        self._broken = deque((each for each in self._broken if each > at), maxlen=_MOST)

    def admits(self, now: float) -> bool:
        """Whether another client may be connected at the time `now`."""
        if self.broken < self.limit * _SINGLE_FILE:
            return True
        if now < self._next:
            return False
        self._next = now + _ONE_EVERY
        return True

    @property
    def worrying(self) -> bool:
        """Whether a login of ours should come soon, to start the count anew."""
        return self.broken >= self.limit / 2
