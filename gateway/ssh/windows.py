"""How much a channel may be sent ahead: grown from measured rate and round trip, within a budget. Pure.

A window of W bytes bounds a channel to W per round trip (RFC 4254, 5.2). Large windows cost memory only when the
client is slow, so they are given to those channels that use theirs up within a round trip, and only on long paths.

What slow readers can make this process hold is so bounded: with N channels, `FIRST_BUDGET` + `PROCESS_BUDGET` + N *
`LEAST`, whatever they do, and a tenth of what is held for the objects that hold it. That is 2 MiB each for the first
256, and 256 KiB for every further one, beside 512 MiB for those on long paths. A window counts until its last byte is
delivered, also when its channel is closed before.
"""

INITIAL = 2 * 1024 * 1024
LEAST = 256 * 1024
"""The first window of a channel when many are open."""
FIRST_BUDGET = 512 * 1024 * 1024
"""What the first windows of all channels may take together, beyond `LEAST` each."""
MAXIMUM = 32 * 1024 * 1024
MAX_PACKET = 128 * 1024
"""With packets of 32 KiB, a large window drives sshd to several times its work per byte."""
ADJUST = 256 * 1024
"""A grant for every so many bytes: at half empty, as is common, a sender idles for half of each round trip."""
PROCESS_BUDGET = 512 * 1024 * 1024
"""What all channels of this process may hold back for slow clients together, beyond their initial windows."""
CONNECTION_BUDGET = 128 * 1024 * 1024
"""What those of one SSH connection may, so that one long path does not use up what the others need."""


class Budget:
    """What is left to grow windows with.

    Args:
        size: In bytes.
        within: A larger budget that this one is a part of.
    """

    def __init__(self, size: int, within: "Budget | None" = None) -> None:
        self.left = size
        self._within = within

    def take(self, size: int) -> int:
        """Take up to `size` bytes; gives what was there."""
        taken = min(size, self.left)
        if self._within is not None:
            taken = self._within.take(taken)
        self.left -= taken
        return taken

    def give_back(self, size: int) -> None:
        """A channel that had grown is closed."""
        self.left += size
        if self._within is not None:
            self._within.give_back(size)


FIRST = Budget(FIRST_BUDGET)
PROCESS = Budget(PROCESS_BUDGET)
"""Those of this process."""


class Window:
    """The receive window of one channel.

    Args:
        budget: What growing takes from.
        first: What the first size takes from.
    """

    __slots__ = ("_budget", "_epoch", "_first", "_in_epoch", "_initial", "granted", "owed", "size", "step")

    def __init__(self, budget: Budget, first: Budget) -> None:
        more = first.take(INITIAL - LEAST)
        if more < INITIAL - LEAST:
            first.give_back(more)
            more = 0
        self.size = self._initial = LEAST + more
        self.step = min(ADJUST, self.size // 4)
        """How much may be owed before it is worth a grant."""
        self._first = first
        self.granted = self.size
        """What the peer may still send; below nothing, it has broken the protocol."""
        self.owed = 0
        """What the client took and the peer has not been granted anew; `grant` when it reaches `step`."""
        self._budget = budget
        self._in_epoch = 0
        self._epoch = 0.0

    def grant(self, now: float, round_trip: float | None) -> int:
        """What to grant the peer now: what is owed, and more where the window is too small for the path.

        Args:
            now: A monotonic time in seconds.
            round_trip: To the peer in seconds, where it is known.
        """
        owed, self.owed = self.owed, 0
        owed += self._grown(owed, now, round_trip)
        self.granted += owed
        return owed

    def close(self) -> None:
        """Give back what was grown."""
        self._budget.give_back(self.size - self._initial)
        self._first.give_back(self._initial - LEAST)
        self.size = self._initial = LEAST

    def _grown(self, count: int, now: float, round_trip: float | None) -> int:
        """Twice the window when more than half of it was used within one round trip."""
        self._in_epoch += count
        if round_trip is None or now - self._epoch < round_trip:
            return 0
        used = self._in_epoch * round_trip / (now - self._epoch)
        self._epoch, self._in_epoch = now, 0
        if used * 2 < self.size or self.size >= MAXIMUM:
            return 0
        more = self._budget.take(min(self.size, MAXIMUM - self.size))
        self.size += more
        self.step = min(ADJUST, self.size // 4)
        return more
