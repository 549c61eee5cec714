"""Converts the check history of a backend to the JSON response of `/api/v1/checks/NAME/history`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gateway.ops.status_json import iso
from gateway.ops.status_views import CheckHistoryEntry


class RecordedCheck(NamedTuple):
    """A check of a target, and its path.

    Args:
        tunnel: The tunnel over which the check reached the target; None if it used no tunnel.
        result: The result of the check.
    """

    tunnel: str | None
    result: CheckHistoryEntry


ChecksByTarget = Mapping[str, Sequence[RecordedCheck]]
"""The latest checks of each target, oldest first, by the address of the target."""


def check_history_json(backend: str, history: ChecksByTarget) -> dict[str, Any]:
    """Return the JSON object of a backend's check history.

    Args:
        backend: The name of the backend.
        history: The checks of the backend's targets.
    """
    targets = ((target, list(map(_check, checks))) for target, checks in history.items())
    return {"backend": backend, "targets": targets}


def _check(check: RecordedCheck) -> dict[str, Any]:
    result = check.result
    return {
        "time": iso(result.at),
        "via": check.tunnel,
        "state": result.state,
        "reason": result.reason,
        "detail": result.detail,
        "duration_seconds": result.duration,
        "phases_seconds": result.phases,
    }
