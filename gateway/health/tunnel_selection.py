"""Selects the tunnel through which new clients reach a target, if there are several. Does no I/O.

New clients leave a way at once if its tunnel is down or suspect, or if the target works only through another way.
They move to a preferred way after a check through it has succeeded, and return to it after it has worked for a while.
A way that fails repeatedly therefore does not reset new clients each time.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from gateway.contracts.states import HealthState, WayPreference

RETURN_AFTER = 30.0
"""Seconds for which a way that has failed must work before new clients return to it."""
_FASTER, _MIN_GAIN = 0.8, 0.001
"""With `latency`, new clients move to a way if its checks take at most this share of the time that the checks through
the current way take, and at least this number of seconds less."""
_CONFIRMATIONS = 8
"""Number of checks through both ways for which another way must remain the faster one. On a busy machine, the checks
through equal ways differ for a few checks in a row."""
_USABLE = (HealthState.UP, HealthState.DEGRADED)
_UNCHECKED = (HealthState.UNKNOWN, HealthState.PAUSED)


@dataclass(frozen=True)
class TunnelCandidate:
    """A tunnel through which new clients can reach a target, with its state and latency.

    Args:
        is_open: Whether the tunnel has a link.
        state: The state of the target, as checks through this way find it.
        latency: How long the last successful checks through this way took, in seconds; None if there were none.
        checks: Number of checks through this way since the start.
        dial_failed: Whether a client's dial failed through this way and succeeded through another way, and no check
            through this way has succeeded since then.
    """

    is_open: bool
    state: HealthState
    latency: float | None = None
    checks: int = 0
    dial_failed: bool = False


def working_ways(ways: Sequence[TunnelCandidate]) -> list[int]:
    """Return the indexes of the ways that new clients can use.

    If the target fails through all ways, the cause is the target, so all ways count as working. A way that was never
    checked counts as working. A way whose tunnel has reopened counts as working after its next check, or if the other
    ways fail too.

    Args:
        ways: The ways in the order of the configuration.
    """
    opened = [at for at, way in enumerate(ways) if way.is_open]
    trusted = [at for at in opened if not ways[at].dial_failed] or opened
    if any(ways[at].state in _USABLE for at in trusted):
        return [at for at in trusted if ways[at].state not in (HealthState.DOWN, HealthState.BLOCKED)]
    return trusted


def confirmed_ways(ways: Sequence[TunnelCandidate]) -> list[int]:
    """Return the indexes of the working ways to which new clients can move from another working way.

    The last check through such a way has succeeded. If the target is not checked, an open tunnel is sufficient.

    Args:
        ways: The ways in the order of the configuration.
    """
    working = working_ways(ways)
    usable = [at for at in working if ways[at].state in _USABLE]
    return usable or [at for at in working if ways[at].state in _UNCHECKED]


def choose_way(
    ways: Sequence[TunnelCandidate], worked_for: Sequence[float], current: int | None, prefer: WayPreference
) -> int:
    """Return the index of the way for new clients.

    Args:
        ways: The ways in the order of the configuration; at least one.
        worked_for: For how long each way has worked, in seconds; infinite if it has not failed before, and negative
            infinity if it has not been confirmed since it last failed.
        current: The way that new clients have used until now; None at the start.
        prefer: Which of the working ways is preferred.

    Returns:
        A way that works, if there is one.
    """
    working, confirmed = working_ways(ways), confirmed_ways(ways)
    if not working:
        return current or 0

    def rank(at: int) -> tuple[float, int]:
        latency = ways[at].latency
        return (inf if latency is None else latency, at) if prefer == "latency" else (0.0, at)

    if current is None or current not in working:
        return min(confirmed or working, key=rank)
    best = min((current, *(at for at in confirmed if worked_for[at] >= RETURN_AFTER)), key=rank)
    if prefer == "latency":
        now, then = rank(current)[0], rank(best)[0]
        return best if now - then >= _MIN_GAIN and then <= now * _FASTER else current
    return best


def order_ways(ways: Sequence[TunnelCandidate], chosen: int) -> list[int]:
    """Return the indexes of all ways, in the order in which to try them.

    Args:
        ways: The ways in the order of the configuration.
        chosen: The index of the way for new clients.
    """
    working = working_ways(ways)
    return sorted(range(len(ways)), key=lambda at: (at != chosen, at not in working, at))


class TunnelSelector:
    """Selects the tunnel through which new clients reach one target, and counts the changes.

    Args:
        names: The tunnels of the ways, in the order of the configuration; None for the direct way.
        prefer: Which of the working ways is preferred.
    """

    def __init__(self, names: Sequence[str | None], prefer: WayPreference) -> None:
        self.names = tuple(names)
        self.prefer = prefer
        self.current: int | None = None
        self.switches: Counter[str | None] = Counter()
        """How often new clients moved to each way."""
        self.works_since: list[float | None] = [None] * len(self.names)
        """Monotonic time since which each way works; None if it does not work, or is not confirmed yet."""
        self.has_failed = [False] * len(self.names)
        """Whether each way has stopped working at least once."""
        self._slower_since: tuple[int, ...] | None = None
        """The checks through each way when the current way became slower than another; None if it is not slower."""

    def update(self, ways: Sequence[TunnelCandidate], now: float) -> int:
        """Choose the way for new clients from the current results, and return its index.

        Args:
            ways: The ways in the order of `names`.
            now: Monotonic time in seconds.
        """
        working, confirmed = working_ways(ways), confirmed_ways(ways)
        started = []
        for at, since in enumerate(self.works_since):
            if at not in working:
                self.has_failed[at] |= since is not None
                self.works_since[at] = None
            elif since is None and at in confirmed:
                if not self.has_failed[at]:
                    started.append(at)
                self.works_since[at] = now if self.has_failed[at] else -inf
        worked_for = [-inf if since is None else now - since for since in self.works_since]
        chosen = choose_way(ways, worked_for, self.current, self.prefer)
        if self.prefer == "latency" and self.current in working and chosen not in started:
            chosen = self._confirm_faster(self.current, chosen, ways)
        if chosen != self.current:
            if self.current is not None and chosen not in started:
                self.switches[self.names[chosen]] += 1
            if working:
                self.current, self._slower_since = chosen, None
        return chosen

    def _confirm_faster(self, current: int, faster: int, ways: Sequence[TunnelCandidate]) -> int:
        """Return `faster` if the current way has been slower for several checks; otherwise, return `current`."""
        if faster == current:
            self._slower_since = None
            return current
        if self._slower_since is None:
            self._slower_since = tuple(way.checks for way in ways)
        confirmations = min(ways[at].checks - self._slower_since[at] for at in (current, faster))
        return faster if confirmations >= _CONFIRMATIONS else current

    def inherit(self, other: "TunnelSelector") -> None:
        """Continue the counters and the choice of `other`, which chose the way to this target before a reload."""
        self.switches = other.switches
        for at, name in enumerate(self.names):
            if name in other.names:
                before = other.names.index(name)
                self.works_since[at] = other.works_since[before]
                self.has_failed[at] = other.has_failed[before]
                if other.current == before:
                    self.current = at
