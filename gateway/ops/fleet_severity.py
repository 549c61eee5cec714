"""Determines how severe the state of each gateway in the fleet is. Does no I/O."""

from collections.abc import Iterable

from gateway.contracts.states import HealthState
from gateway.fleet.view import MemberView
from gateway.ops.diagnosis import Level, backend_level


def fails(member: MemberView) -> bool:
    """Return whether a member of the fleet has responded, and its response contains a problem or a failed reload."""
    found = member.summary
    return not member.error and found is not None and bool(found.problems or not found.reload_successful)


def member_level(member: MemberView) -> Level:
    """Return the severity of a member: bad if it does not respond, or if one of its backends is down or blocked."""
    found = member.summary.backends if member.summary else {}
    if member.error or any(found.get(state) for state in HealthState if backend_level(state) is Level.BAD):
        return Level.BAD
    return Level.GOOD if member.state == "ready" and not fails(member) else Level.WARNING


def worst_first(members: Iterable[MemberView]) -> list[MemberView]:
    """Return the members in order of severity: first those that do not respond.

    Members with the same severity keep their order.
    """
    levels = list(Level)
    return sorted(members, key=lambda each: (levels.index(member_level(each)), not each.error))
