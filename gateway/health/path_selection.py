"""Selects the path (a tunnel, or the direct connection) over which new clients reach a target. Does no I/O.

If a path fails and another path works, new clients use the other path immediately. After the failed path works again,
new clients return to it only after `RETURN_AFTER` seconds, because the path could soon fail again.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from gateway.contracts.states import HealthState, PathPreference

RETURN_AFTER = 30.0
"""Number of seconds for which a path must work after a failure, before new clients use it again."""
_FASTER, _MIN_GAIN = 0.8, 0.001
"""With the preference `latency`, new clients move only to a clearly faster path. The latency of that path must be at
most `_FASTER` times the current path's latency, and at least `_MIN_GAIN` seconds lower."""
_CONFIRMATIONS = 8
"""New clients move to the fastest path only after this number of probes over the current path, and over the fastest
path. If no path is clearly faster than the current path in the meantime, the count starts again. Fewer probes would
not be reliable, because the latencies of equally fast paths vary on a busy machine."""
_UNCHECKED = (HealthState.UNKNOWN, HealthState.PAUSED)


@dataclass(frozen=True)
class PathCandidate:
    """A path that new clients might use to reach a target, with its state and latency.

    Args:
        is_open: Whether the path's tunnel is open.
        state: The state of the target according to the checks over this path.
        latency: Median duration of recent successful probes over this path, in seconds; None if none succeeded.
        checks: Number of probes over this path since the start of the service.
        dial_failed: Whether a client's dial over this path failed, but a dial over another path then succeeded.
            False again after a successful probe over this path, or after 60 s.
    """

    is_open: bool
    state: HealthState
    latency: float | None = None
    checks: int = 0
    dial_failed: bool = False


def working_paths(paths: Sequence[PathCandidate]) -> list[int]:
    """Return the indexes of the paths that new clients can use.

    A path works if its tunnel is open, `dial_failed` is False, and its check does not report the target as down or
    blocked. The function ignores `dial_failed` if it is True for all open paths. If no check of the remaining paths
    reports the target as usable, the function ignores the checks, because the target itself might have failed.

    Args:
        paths: The paths in the order of the configuration.
    """
    opened = [at for at, path in enumerate(paths) if path.is_open]
    trusted = [at for at in opened if not paths[at].dial_failed] or opened
    if any(paths[at].state.is_usable for at in trusted):
        return [at for at in trusted if paths[at].state not in (HealthState.DOWN, HealthState.BLOCKED)]
    return trusted


def confirmed_paths(paths: Sequence[PathCandidate]) -> list[int]:
    """Return the indexes of the paths to which new clients may move.

    These are the working paths over which the target is up or degraded. If there are none, return the working paths
    whose checks have no result yet or are paused.

    Args:
        paths: The paths in the order of the configuration.
    """
    working = working_paths(paths)
    usable = [at for at in working if paths[at].state.is_usable]
    return usable or [at for at in working if paths[at].state in _UNCHECKED]


def choose_path(
    paths: Sequence[PathCandidate], worked_for: Sequence[float], current: int | None, prefer: PathPreference
) -> int:
    """Choose the path for new clients, and return its index.

    Args:
        paths: The paths in the order of the configuration; at least one.
        worked_for: The number of seconds for which each path has worked. Infinity: the path has never failed.
            Negative infinity: the path does not work, or is not in `confirmed_paths` yet.
        current: The index of the path that new clients use at present; None at the start.
        prefer: Which of several working paths to choose: the first one (`order`), or the fastest one (`latency`).

    Returns:
        The index of a working path. If no path works: `current`, or 0 at the start.
    """
    working, confirmed = working_paths(paths), confirmed_paths(paths)
    if not working:
        return current or 0

    def rank(at: int) -> tuple[float, int]:
        latency = paths[at].latency
        return (inf if latency is None else latency, at) if prefer == "latency" else (0.0, at)

    if current is None or current not in working:
        return min(confirmed or working, key=rank)
    best = min((current, *(at for at in confirmed if worked_for[at] >= RETURN_AFTER)), key=rank)
    if prefer == "latency":
        now, then = rank(current)[0], rank(best)[0]
        return best if now - then >= _MIN_GAIN and then <= now * _FASTER else current
    return best


def order_paths(paths: Sequence[PathCandidate], chosen: int) -> list[int]:
    """Return the indexes of all paths, in the order in which to dial them for a new client.

    Args:
        paths: The paths in the order of the configuration.
        chosen: The index of the path to dial first, from `choose_path`.
    """
    working = working_paths(paths)
    return sorted(range(len(paths)), key=lambda at: (at != chosen, at not in working, at))


class PathSelector:
    """Selects the path over which new clients reach one target, and counts how often the selection changes.

    Args:
        names: The names of the tunnels that lead to the target, in the order of the configuration. None stands for
            the direct connection.
        prefer: Which of several working paths to choose: the first one (`order`), or the fastest one (`latency`).
    """

    def __init__(self, names: Sequence[str | None], prefer: PathPreference) -> None:
        self.names = tuple(names)
        self.prefer = prefer
        self.current: int | None = None
        self.switches: Counter[str | None] = Counter()
        """For each path, the number of times that new clients switched to it from another path."""
        self.works_since: list[float | None] = [None] * len(self.names)
        """Monotonic time, in seconds, at which each path started to work. Negative infinity: the path has never
        failed. None: the path does not work, or is not in `confirmed_paths` yet."""
        self.has_failed = [False] * len(self.names)
        """For each path, whether the path has failed at least once."""
        self._slower_since: tuple[int, ...] | None = None
        """For each path, the number of its probes at the time when another path became clearly faster than the
        current path. None: no other path is clearly faster."""

    def update(self, paths: Sequence[PathCandidate], now: float) -> int:
        """Record which paths work, choose the path for new clients, and return its index.

        Args:
            paths: The paths in the order of `names`.
            now: The current monotonic time, in seconds.
        """
        working, confirmed = working_paths(paths), confirmed_paths(paths)
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
        chosen = choose_path(paths, worked_for, self.current, self.prefer)
        if self.prefer == "latency" and self.current in working and chosen not in started:
            chosen = self._confirm_fastest(self.current, chosen, paths)
        if chosen != self.current:
            if self.current is not None and chosen not in started:
                self.switches[self.names[chosen]] += 1
            if working:
                self.current, self._slower_since = chosen, None
        return chosen

    def _confirm_fastest(self, current: int, fastest: int, candidates: Sequence[PathCandidate]) -> int:
        """Return `fastest` if enough probes confirm that it is faster; otherwise, `current`.

        Enough means at least `_CONFIRMATIONS` probes over each of the two paths. The count starts when any other path
        becomes clearly faster than `current`.
        """
        if fastest == current:
            self._slower_since = None
            return current
        if self._slower_since is None:
            self._slower_since = tuple(each.checks for each in candidates)
        confirmations = min(candidates[at].checks - self._slower_since[at] for at in (current, fastest))
        return fastest if confirmations >= _CONFIRMATIONS else current

    def inherit(self, other: "PathSelector") -> None:
        """Copy the state of `other`, which selected paths to the same target before a reload."""
        self.switches = other.switches
        for at, name in enumerate(self.names):
            if name in other.names:
                before = other.names.index(name)
                self.works_since[at] = other.works_since[before]
                self.has_failed[at] = other.has_failed[before]
                if other.current == before:
                    self.current = at
