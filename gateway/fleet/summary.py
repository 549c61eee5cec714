"""Decodes the summary that a member returns, and sanitizes it, because members are not trusted. Does no I/O."""

import json
from dataclasses import dataclass, field
from datetime import MAXYEAR, UTC, datetime
from typing import Any

from gateway.text_sanitizer import one_line

MAX_BYTES = 64 << 10
"""Maximum size of a member's response, in bytes."""
_MAX_PROBLEMS = 10
_MAX_STATES = 20
_MAX_NAME = 100
_MAX_DETAIL = 300
_CORRECT_PORT = "use the port of the member's ops.listen"


@dataclass(frozen=True)
class MemberProblem:
    """A failed tunnel or backend of a member.

    Args:
        name: `tunnel NAME` or `backend NAME`.
        state: The state of the tunnel or backend.
        reason: The reason for the state; empty if the state has no reason.
        detail: One line with details of the reason.
        since: When the state began (RFC 3339, UTC); empty if the member does not report it.
        effects: The consequences, such as `3 backends blocked`; empty if the member reports none.
    """

    name: str
    state: str
    reason: str
    detail: str
    since: str = ""
    effects: str = ""


@dataclass(frozen=True)
class MemberSummary:
    """A member's response to `/api/v1/summary`: the status, tunnels, backends, clients and failures of the member."""

    instance: str
    version: str
    status: str
    started_at: str
    clients: int
    warnings: int
    reload_successful: bool
    tunnels: dict[str, int] = field(hash=False)
    """Number of tunnels by state."""
    backends: dict[str, int] = field(hash=False)
    """Number of backends by state."""
    problems: tuple[MemberProblem, ...] = ()


def decode_summary(body: bytes) -> MemberSummary:
    """Decode the response of a member. Convert each string to one short line without control characters.

    Raises:
        ValueError: The response is not from a gateway.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the response is not valid JSON: {_CORRECT_PORT}") from error
    if not isinstance(found, dict) or not isinstance(found.get("backends"), dict):
        message = f"the response is not from a gateway: {_CORRECT_PORT}"
        raise ValueError(message)  # noqa: TRY004 - the caller expects a `ValueError`
    problems = found.get("problems")
    return MemberSummary(
        instance=_text(found, "instance"),
        version=_text(found, "version"),
        status=_text(found, "status"),
        started_at=_text(found, "started_at"),
        clients=_count(found.get("clients")),
        warnings=_count(found.get("warnings")),
        reload_successful=found.get("reload_successful") is not False,
        tunnels=_counts(found.get("tunnels")),
        backends=_counts(found["backends"]),
        problems=tuple(
            MemberProblem(
                name=_text(each, "name"),
                state=_text(each, "state"),
                reason=_text(each, "reason"),
                detail=_text(each, "detail", _MAX_DETAIL),
                since=_time(each.get("since")),
                effects=_text(each, "effects", _MAX_DETAIL),
            )
            for each in (problems if isinstance(problems, list) else [])[:_MAX_PROBLEMS]
            if isinstance(each, dict)
        ),
    )


def _text(found: dict[str, Any], key: str, max_length: int = _MAX_NAME) -> str:
    value = found.get(key)
    return one_line(value, max_length) if isinstance(value, str) else ""


def _time(value: object) -> str:
    """Convert a time (RFC 3339) to UTC. Return an empty string if the time is not valid or is out of range."""
    try:
        read = datetime.fromisoformat(value if isinstance(value, str) else "")
        found = read.astimezone(UTC)
    except (ValueError, OverflowError):
        return ""
    # Exclude 9999, the last year that `datetime` supports, because a conversion to another time zone can fail.
    valid = read.tzinfo is not None and 1970 <= found.year < MAXYEAR
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z") if valid else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else 0


def _counts(value: object) -> dict[str, int]:
    items = list(value.items())[:_MAX_STATES] if isinstance(value, dict) else []
    return {one_line(str(state), _MAX_NAME): _count(count) for state, count in items}
