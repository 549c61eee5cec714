"""Decodes the summary of a member. Limits sizes, because a member is not trusted. Does no I/O."""

import json
from dataclasses import dataclass, field
from typing import Any

from gateway.text_sanitizer import one_line

MAX_BYTES = 64 << 10
"""Maximum size of an answer."""
_MAX_PROBLEMS = 10
_MAX_STATES = 20
_MAX_NAME = 100
_MAX_DETAIL = 300


@dataclass(frozen=True)
class MemberProblem:
    """A failed tunnel or backend of a member."""

    name: str
    state: str
    reason: str
    detail: str


@dataclass(frozen=True)
class MemberSummary:
    """The summary that a member returns for `/api/v1/summary`: its status, counts and failures."""

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
    """Decode an answer. Each text becomes one line without control characters, and is cut to a maximum length.

    Raises:
        ValueError: The answer is not that of a gateway.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the answer is not valid JSON") from error
    if not isinstance(found, dict) or not isinstance(found.get("backends"), dict):
        raise ValueError("the answer is not that of a gateway")  # noqa: TRY004 - the value has the wrong content
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
                _text(each, "name"), _text(each, "state"), _text(each, "reason"), _text(each, "detail", _MAX_DETAIL)
            )
            for each in (problems if isinstance(problems, list) else [])[:_MAX_PROBLEMS]
            if isinstance(each, dict)
        ),
    )


def _text(found: dict[str, Any], key: str, max_length: int = _MAX_NAME) -> str:
    value = found.get(key)
    return one_line(value, max_length) if isinstance(value, str) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else 0


def _counts(value: object) -> dict[str, int]:
    items = list(value.items())[:_MAX_STATES] if isinstance(value, dict) else []
    return {one_line(str(state), _MAX_NAME): _count(count) for state, count in items}
