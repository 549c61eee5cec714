"""Which target new clients get, and what the targets' states make of the backend's. Pure."""

from dataclasses import dataclass

from gateway.contracts import Endpoint, State
from gateway.errors import Reason

_RANK = {State.UP: 0, State.DEGRADED: 1, State.UNKNOWN: 2, State.PAUSED: 2, State.BLOCKED: 3, State.DOWN: 3}
_USABLE = (State.UP, State.DEGRADED)


@dataclass(frozen=True)
class Candidate:
    """A target as the last checks saw it."""

    target: Endpoint
    state: State
    reason: Reason | None = None
    detail: str = ""
    role: str | None = None
    read_only: bool | None = None


def order(candidates: list[Candidate], prefer: str) -> list[Candidate]:
    """The targets to try for a new client, best first.

    A target that is down comes last rather than never: a check may fail where traffic would not, as with a wrong
    check password. Where roles do not matter, one that was not checked yet keeps its place. Under `primary`, one
    known to be read-only is left out altogether.

    Args:
        candidates: In the order of the configuration.
        prefer: `primary`, `replica`, `any` or `order`.
    """
    usable = [each for each in candidates if prefer != "primary" or not (each.read_only or each.role == "replica")]

    def rank(candidate: Candidate) -> tuple[int, int]:
        wrong_role = prefer == "replica" and candidate.role == "primary"
        unchecked = candidate.state is State.UNKNOWN and prefer in ("order", "any")
        return (0 if unchecked else _RANK[candidate.state], int(wrong_role))

    return sorted(usable, key=rank)


def misplaced(candidates: list[Candidate], prefer: str) -> frozenset[Endpoint]:
    """The targets that have lost the role which their clients came for, those too that are down by now."""
    if prefer == "primary":
        return frozenset(each.target for each in candidates if each.read_only or each.role == "replica")
    first = next(iter(order(candidates, prefer)), None)
    # Where newcomers are sent to the primary, because every replica is worse off, the others may stay there too.
    if prefer == "replica" and first is not None and first.role == "replica" and first.state in _USABLE:
        return frozenset(each.target for each in candidates if each.role == "primary")
    return frozenset()


def backend_state(candidates: list[Candidate], prefer: str) -> tuple[State, Reason | None, str]:
    """The state of a backend with these targets, and why."""
    chosen = order(candidates, prefer)
    first = next((each for each in chosen if each.state in _USABLE), None)
    if first is not None:
        if first.state is State.DEGRADED:
            return first.state, first.reason, first.detail
        bad = next(
            (each for each in candidates if each.state not in _USABLE and each.state is not State.UNKNOWN),
            None,
        )
        if bad is not None:
            return State.DEGRADED, bad.reason, f"{bad.target} is {bad.state}: {bad.detail}"
        if prefer == "replica" and first.role == "primary":
            return State.DEGRADED, Reason.ROLE, "no replica is up: the primary answers"
        return State.UP, None, ""
    for state in (State.DOWN, State.BLOCKED, State.PAUSED):
        bad = next((each for each in chosen if each.state is state), None)
        if bad is not None and all(each.state is not State.UNKNOWN for each in chosen):
            return state, bad.reason, bad.detail
    if not chosen:
        return State.DOWN, Reason.ROLE, "no target is a writable primary"
    unknown = next(each for each in chosen if each.state is State.UNKNOWN)
    return State.UNKNOWN, None, unknown.detail
