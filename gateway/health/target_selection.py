"""Orders the targets of a backend for new clients, and derives the backend's state from the targets. Does no I/O."""

from dataclasses import dataclass
from typing import NamedTuple

from gateway.contracts.config_types import HostPort
from gateway.contracts.states import DatabaseRole, HealthState, Preference
from gateway.errors import FailureReason

_RANK = {
    HealthState.UP: 0,
    HealthState.DEGRADED: 1,
    HealthState.UNKNOWN: 2,
    HealthState.PAUSED: 2,
    HealthState.BLOCKED: 3,
    HealthState.DOWN: 3,
}


@dataclass(frozen=True)
class TargetCandidate:
    """A target that new clients of a backend might use, with the results of its checks.

    Args:
        remedy: How to fix the failure of the target, as in `gateway.errors.UnusableTargetError`; empty to use the
            general remedy for `reason`.
        promoted: Monotonic time, in seconds, at which a check detected that the target was promoted from replica to
            primary; 0 if there was no promotion.
        probed: Monotonic time, in seconds, at the start of the last probe that got a response.
        failing: The value of `gateway.health.check.Check.failing` for the path that new clients use.
    """

    target: HostPort
    state: HealthState
    reason: FailureReason | None = None
    detail: str = ""
    remedy: str = ""
    role: DatabaseRole | None = None
    read_only: bool | None = None
    promoted: float = 0.0
    probed: float = 0.0
    failing: bool = False


class BackendHealth(NamedTuple):
    """The state of a backend, and why it is not up.

    `remedy` describes how to fix the failure, in the imperative. It is empty if the general remedy for `reason`
    applies.
    """

    state: HealthState
    reason: FailureReason | None = None
    detail: str = ""
    remedy: str = ""


def superseded_primaries(
    candidates: list[TargetCandidate], prefer: Preference, *, confirmed: bool = False
) -> frozenset[HostPort]:
    """Return the superseded primaries. A primary is superseded if another primary was promoted later and is not down.

    A superseded primary can accept writes until it is demoted. These writes are lost.

    Args:
        candidates: The targets in the order of the configuration.
        prefer: Which targets new clients use, from the configuration. If `prefer` is not `primary`, the result is
            empty.
        confirmed: Whether to return only primaries that are `failing`, or that were probed after the later promotion.
            A primary that was not probed after this promotion might have been demoted.
    """
    primaries = [each for each in candidates if prefer == "primary" and each.role == "primary"]
    latest = max((each.promoted for each in primaries if each.state is not HealthState.DOWN), default=0.0)
    superseded = [each for each in primaries if each.promoted < latest]
    return frozenset(each.target for each in superseded if not confirmed or each.failing or each.probed > latest)


def order_targets(candidates: list[TargetCandidate], prefer: Preference) -> list[TargetCandidate]:
    """Return the targets to try for a new client, best first.

    Targets that are down or blocked come last. The list contains them because a check can fail although clients can
    use the target. If `prefer` is `order` or `any`, targets with the state `unknown` rank like targets that are up.
    If `prefer` is `primary`, the list omits read-only targets, replicas and superseded primaries.

    Args:
        candidates: The targets in the order of the configuration.
        prefer: Which targets new clients use, from the configuration.
    """
    wrong = wrong_role_targets(candidates, prefer) if prefer == "primary" else frozenset()
    usable = [each for each in candidates if each.target not in wrong]

    def rank(candidate: TargetCandidate) -> tuple[int, int]:
        wrong_role = prefer == "replica" and candidate.role == "primary"
        unchecked = candidate.state is HealthState.UNKNOWN and prefer in ("order", "any")
        return (0 if unchecked else _RANK[candidate.state], int(wrong_role))

    return sorted(usable, key=rank)


def wrong_role_targets(candidates: list[TargetCandidate], prefer: Preference) -> frozenset[HostPort]:
    """Return the targets that have the wrong role. Their clients must reconnect, to get another target.

    The result can contain targets that are down.

    Args:
        candidates: The targets in the order of the configuration.
        prefer: Which targets new clients use, from the configuration.
    """
    if prefer == "primary":
        read_only = frozenset(each.target for each in candidates if each.read_only or each.role == "replica")
        return read_only | superseded_primaries(candidates, prefer)
    first = next(iter(order_targets(candidates, prefer)), None)
    # With the preference `replica`, the clients of a primary may stay there while no replica is usable.
    if prefer == "replica" and first is not None and first.role == "replica" and first.state.is_usable:
        return frozenset(each.target for each in candidates if each.role == "primary")
    return frozenset()


def lacks_primary(candidates: list[TargetCandidate], prefer: Preference) -> bool:
    """Return whether clients need a primary, but no primary is usable. Return False while no role is known.

    Args:
        candidates: The targets in the order of the configuration.
        prefer: Which targets new clients use, from the configuration.
    """
    if prefer != "primary" or all(each.role is None for each in candidates):
        return False
    return not any(each.state.is_usable and not each.failing for each in order_targets(candidates, prefer))


def backend_state(candidates: list[TargetCandidate], prefer: Preference) -> BackendHealth:
    """Derive the state of a backend from the states of its targets.

    Args:
        candidates: The targets in the order of the configuration.
        prefer: Which targets new clients use, from the configuration.
    """
    chosen = order_targets(candidates, prefer)
    first = next((each for each in chosen if each.state.is_usable), None)
    if first is not None:
        return _usable_state(candidates, first, prefer)
    for state in (HealthState.DOWN, HealthState.BLOCKED, HealthState.PAUSED):
        bad = next((each for each in chosen if each.state is state), None)
        if bad is not None and all(each.state is not HealthState.UNKNOWN for each in chosen):
            return BackendHealth(state, bad.reason, bad.detail, bad.remedy)
    if not chosen:
        return BackendHealth(HealthState.DOWN, FailureReason.ROLE, "no target is a writable primary")
    unknown = next(each for each in chosen if each.state is HealthState.UNKNOWN)
    return BackendHealth(HealthState.UNKNOWN, None, unknown.detail, unknown.remedy)


def _usable_state(candidates: list[TargetCandidate], first: TargetCandidate, prefer: Preference) -> BackendHealth:
    """Return the state of a backend whose best target, `first`, is usable."""
    if first.state is HealthState.DEGRADED:
        return BackendHealth(first.state, first.reason, first.detail, first.remedy)
    unusable = (each for each in candidates if not each.state.is_usable and each.state is not HealthState.UNKNOWN)
    bad = next(unusable, None)
    if bad is not None:
        return BackendHealth(
            HealthState.DEGRADED, bad.reason, f"{bad.target} is {bad.state}: {bad.detail}", bad.remedy
        )
    if prefer == "replica" and first.role == "primary":
        detail = "no replica is up, so the primary serves the clients"
        return BackendHealth(
            HealthState.DEGRADED, FailureReason.ROLE, detail, "start a replica, or add one to targets"
        )
    superseded = superseded_primaries(candidates, prefer)
    if superseded:
        others = ", ".join(sorted(map(str, superseded)))
        detail = f"{others} was not demoted: {first.target} was promoted later and serves all clients"
        remedy = f"demote {others}, because two primaries accept writes"
        return BackendHealth(HealthState.DEGRADED, FailureReason.ROLE, detail, remedy)
    return BackendHealth(HealthState.UP)
