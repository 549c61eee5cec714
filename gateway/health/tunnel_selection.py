"""Selects the tunnel through which new clients reach a target, if there are several. Does no I/O.

New clients stop using a way immediately if its tunnel is down or suspect, or if the target works only through another
way. They start using a preferred way when a check through it succeeds. If that way has failed before, they return
to it only after it has worked for `RETURN_AFTER`, so that new clients do not use a way that fails repeatedly.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from gateway.contracts.states import HealthState, WayPreference

RETURN_AFTER = 30.0
"""Number of seconds for which a way must work after a failure before new clients return to it."""
_FASTER, _MIN_GAIN = 0.8, 0.001
"""If `latency` is preferred, new clients move to another way only if its latency is at most this fraction of the
current way's latency, and also lower by at least this number of seconds."""
_CONFIRMATIONS = 8
"""Number of checks through each of two ways during which one way must remain faster. On a busy machine, the latencies
of equally fast ways can differ for several consecutive checks."""
_USABLE = (HealthState.UP, HealthState.DEGRADED)
_UNCHECKED = (HealthState.UNKNOWN, HealthState.PAUSED)


@dataclass(frozen=True)
class TunnelCandidate:
    """A tunnel through which new clients can reach a target, with its state and latency.

    Args:
        is_open: Whether the tunnel has a link.
        state: The state of the target according to the checks through this way.
        latency: Median duration of the last successful checks through this way, in seconds; None if none succeeded.
        checks: Number of checks through this way since the start.
        dial_failed: Whether a client's dial failed through this way but succeeded through another one, and no check
            through this way has succeeded since then.
    """

    is_open: bool
    state: HealthState
    latency: float | None = None
    checks: int = 0
    dial_failed: bool = False


def working_ways(ways: Sequence[TunnelCandidate]) -> list[int]:
    """Return the indexes of the ways that new clients can use. The tunnels of all these ways are open.

    If the target is down through all ways, the target is the cause, so all ways with an open tunnel count as working.
    Ways that were never checked count as working. A way whose tunnel has reopened counts as working after the next
    check through it, or if the other ways fail too.

    Args:
        ways: The ways in the order of the configuration.
    """
    opened = [at for at, way in enumerate(ways) if way.is_open]
    trusted = [at for at in opened if not ways[at].dial_failed] or opened
    if any(ways[at].state in _USABLE for at in trusted):
        return [at for at in trusted if ways[at].state not in (HealthState.DOWN, HealthState.BLOCKED)]
    return trusted


def confirmed_ways(ways: Sequence[TunnelCandidate]) -> list[int]:
    """Return the indexes of the ways that are known to work, so that new clients can move to them.

    These are the ways through which the target is up or degraded. If there are none, for example because the target
    is not checked, these are the ways that work and through which the target's state is unknown.

    Args:
        ways: The ways in the order of the configuration.
    """
    working = working_ways(ways)
    usable = [at for at in working if ways[at].state in _USABLE]
    return usable or [at for at in working if ways[at].state in _UNCHECKED]


def choose_way(
    ways: Sequence[TunnelCandidate], worked_for: Sequence[float], current: int | None, prefer: WayPreference
) -> int:
    """Choose the way for new clients, and return its index.

    Args:
        ways: The ways in the order of the configuration; at least one.
        worked_for: The number of seconds for which each way has worked; infinite if the way has never failed, and
            negative infinity if the way does not work or is not confirmed (see `confirmed_ways`).
        current: The index of the way that new clients have used until now; None at the start.
        prefer: Which of the working ways is preferred.

    Returns:
        The index of a working way; `current`, or 0 at the start, if no way works.
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
    """Return the indexes of all ways in the order in which to dial them for a new client.

    Args:
        ways: The ways in the order of the configuration.
        chosen: The index of the way for new clients.
    """
    working = working_ways(ways)
    return sorted(range(len(ways)), key=lambda at: (at != chosen, at not in working, at))


class TunnelSelector:
    """Selects the tunnel through which new clients reach one target, and counts the changes of the tunnel.

    Args:
        names: The name of each way's tunnel, in the order of the configuration; None for the direct way.
        prefer: Which of the working ways is preferred.
    """

    def __init__(self, names: Sequence[str | None], prefer: WayPreference) -> None:
        self.names = tuple(names)
        self.prefer = prefer
        self.current: int | None = None
        self.switches: Counter[str | None] = Counter()
        """Number of times that new clients moved to each tunnel."""
        self.works_since: list[float | None] = [None] * len(self.names)
        """Monotonic time since which each way has worked. Negative infinity: it has never failed. None: it does not
        work, or is not confirmed yet."""
        self.has_failed = [False] * len(self.names)
        """Whether each way has stopped working at least once."""
        self._slower_since: tuple[int, ...] | None = None
        """Number of checks through each way when the current way became slower than another one; None if it is not
        slower."""

    def update(self, ways: Sequence[TunnelCandidate], now: float) -> int:
        """Choose the way for new clients from the latest check results, and return its index.

        Args:
            ways: The ways in the order of `names`.
            now: The current monotonic time, in seconds.
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
        """Return `faster` if that way has been faster for `_CONFIRMATIONS` checks; otherwise, return `current`.

        Args:
            current: The index of the current way.
            faster: The index of the fastest way. It can be `current`.
            ways: The ways in the order of `names`.
        """
        if faster == current:
            self._slower_since = None
            return current
        if self._slower_since is None:
            self._slower_since = tuple(way.checks for way in ways)
        confirmations = min(ways[at].checks - self._slower_since[at] for at in (current, faster))
        return faster if confirmations >= _CONFIRMATIONS else current

    def inherit(self, other: "TunnelSelector") -> None:
        """Continue with the counters and the choice of `other`, the selector for this target before a reload."""
        self.switches = other.switches
        for at, name in enumerate(self.names):
            if name in other.names:
                before = other.names.index(name)
                self.works_since[at] = other.works_since[before]
                self.has_failed[at] = other.has_failed[before]
                if other.current == before:
                    self.current = at
