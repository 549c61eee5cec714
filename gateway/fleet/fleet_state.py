"""Defines `FleetState`, the last known state of a fleet and its members."""

from dataclasses import dataclass, field

from gateway.fleet.member_addresses import Member
from gateway.fleet.summary import MemberSummary


@dataclass(frozen=True)
class MemberState:
    """The last known state of one member.

    Args:
        member: The member.
        summary: The last summary that the member returned; None if it has not returned one yet.
        answered_at: When the member returned `summary`, in seconds since the epoch; None if `summary` is None.
        asked_at: When the last request ended, in seconds since the epoch; None before the first request.
        seconds: The duration of the last request in seconds; None before the first request.
        error: Why the last request failed; empty if it succeeded, or before the first request.
    """

    member: Member
    summary: MemberSummary | None = None
    answered_at: float | None = None
    asked_at: float | None = None
    seconds: float | None = None
    error: str = ""

    @property
    def state(self) -> str:
        """The member's state: `unreachable` if the last request failed, `unknown` before the first response.

        Otherwise, the state is the status in `summary`.
        """
        if self.error:
            return "unreachable"
        return self.summary.status if self.summary else "unknown"


@dataclass(frozen=True)
class FleetState:
    """The last known state of all members.

    Args:
        members: The members, with their last responses.
        problems: Error messages, for example about unreadable files.
        is_discovered: Whether `members` is complete. Always true from five minutes after the last change of the
            section `fleet`.
    """

    members: list[MemberState] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_discovered: bool = True
