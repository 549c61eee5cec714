"""Orders the targets for new clients, and derives a backend's state from the states of its targets. Does no I/O."""

from dataclasses import dataclass

from gateway.contracts.states import DatabaseRole, Preference, State
from gateway.contracts.values import Endpoint
from gateway.errors import Reason

_RANK = {State.UP: 0, State.DEGRADED: 1, State.UNKNOWN: 2, State.PAUSED: 2, State.BLOCKED: 3, State.DOWN: 3}
_USABLE = (State.UP, State.DEGRADED)


@dataclass(frozen=True)
class Candidate:
    """A target and the result of its checks."""

    target: Endpoint
    state: State
    reason: Reason | None = None
    detail: str = ""
    role: DatabaseRole | None = None
    read_only: bool | None = None


def order_targets(candidates: list[Candidate], prefer: Preference) -> list[Candidate]:
    """Return the targets to try for a new client, best first.

    The list also contains targets that are down, at the end: sometimes only the check fails, for example if its
    password is wrong, and traffic succeeds. If `prefer` does not depend on roles, a target that has not been checked
    keeps its position. With `primary`, the list excludes targets that are known to be read-only.

    Args:
        candidates: The targets in the order of the configuration.
        prefer: Which targets are preferred.
    """
    usable = [each for each in candidates if prefer != "primary" or not (each.read_only or each.role == "replica")]

    def rank(candidate: Candidate) -> tuple[int, int]:
        wrong_role = prefer == "replica" and candidate.role == "primary"
        unchecked = candidate.state is State.UNKNOWN and prefer in ("order", "any")
        return (0 if unchecked else _RANK[candidate.state], int(wrong_role))

    return sorted(usable, key=rank)


def wrong_role_targets(candidates: list[Candidate], prefer: Preference) -> frozenset[Endpoint]:
    """Return the targets with the wrong role, from which clients must move. The result can contain down targets.

    Args:
        candidates: The targets in the order of the configuration.
        prefer: Which targets are preferred.
    """
    if prefer == "primary":
        return frozenset(each.target for each in candidates if each.read_only or each.role == "replica")
    first = next(iter(order_targets(candidates, prefer)), None)
    # If every replica ranks below the primary, the primary gets the new clients, and keeps the existing ones.
    if prefer == "replica" and first is not None and first.role == "replica" and first.state in _USABLE:
        return frozenset(each.target for each in candidates if each.role == "primary")
    return frozenset()


def backend_state(candidates: list[Candidate], prefer: Preference) -> tuple[State, Reason | None, str]:
    """Return the state of a backend, the reason for the state, and one line of detail.

    Args:
        candidates: The targets in the order of the configuration.
        prefer: Which targets are preferred.
    """
    chosen = order_targets(candidates, prefer)
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
