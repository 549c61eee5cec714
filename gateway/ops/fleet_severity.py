"""Determines the severity of each fleet member's state, and sorts the members. Does no I/O."""

from collections.abc import Iterable

from gateway.contracts.states import HealthState, ServicePhase
from gateway.fleet.fleet_state import MemberState
from gateway.ops.severity import DisplaySeverity, backend_severity


def fails(member: MemberState) -> bool:
    """Return whether the last response of a member reports a problem or a failed reload.

    Return False if the last request failed, or if there is no response yet.
    """
    found = member.summary
    return not member.error and found is not None and bool(found.problems or not found.reload_successful)


def member_level(member: MemberState) -> DisplaySeverity:
    """Return the severity of a member: bad if it does not respond, or if one of its backends is down or blocked."""
    found = member.summary.backends if member.summary else {}
    if member.error or any(
        found.get(state) for state in HealthState if backend_severity(state) is DisplaySeverity.BAD
    ):
        return DisplaySeverity.BAD
    return (
        DisplaySeverity.GOOD if member.state == ServicePhase.READY and not fails(member) else DisplaySeverity.WARNING
    )


def worst_first(members: Iterable[MemberState]) -> list[MemberState]:
    """Return the members, worst first; members that do not respond come before all others. The sort is stable."""
    levels = list(DisplaySeverity)
    return sorted(members, key=lambda each: (levels.index(member_level(each)), not each.error))
