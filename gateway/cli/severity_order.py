"""Sorts tunnels and backends for the output of commands, worst state first. Does no I/O."""

from typing import Any

_BACKENDS = ("down", "blocked", "degraded", "unknown", "paused", "up")
_TUNNELS = (
    "quarantined", "backoff", "resolving", "connecting", "authenticating", "suspect", "waiting", "idle", "draining",
    "stopped", "up",
)  # fmt: skip


def backends_by_severity(status: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the names and objects of the backends in `/api/v1/status`, worst state first, then by name."""
    return sorted(status["backends"].items(), key=lambda each: (backend_rank(each[1]["state"]), each[0]))


def tunnels_by_severity(status: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the names and objects of the tunnels in `/api/v1/status`, worst state first, then by name."""
    return sorted(status["tunnels"].items(), key=lambda each: (_rank(_TUNNELS, each[1]["state"]), each[0]))


def backend_rank(state: str) -> int:
    """Return the rank of a backend's state: the worse the state, the lower the rank."""
    return _rank(_BACKENDS, state)


def _rank(order: tuple[str, ...], state: str) -> int:
    """Return the index of a state in `order`.

    The index of an unknown state, such as one from a newer gateway, is -1, so the state comes first.
    """
    return order.index(state) if state in order else -1
