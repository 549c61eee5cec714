"""Orders tunnels and backends by severity, and lists the tunnels that lead to a backend. Does no I/O."""

from collections.abc import Collection
from typing import Any

from gateway.cli.output import format_reason

_BACKENDS = ("down", "blocked", "degraded", "unknown", "paused", "up")
_TUNNELS = (
    "quarantined", "backoff", "resolving", "connecting", "authenticating", "suspect", "waiting", "idle", "draining",
    "stopped", "up",
)  # fmt: skip


def backends_by_severity(status: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the backends in `/api/v1/status`, worst first, then by name."""
    return sorted(status["backends"].items(), key=lambda each: (backend_rank(each[1]["state"]), each[0]))


def tunnels_by_severity(status: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the tunnels in `/api/v1/status`, worst first, then by name."""
    return sorted(status["tunnels"].items(), key=lambda each: (_rank(_TUNNELS, each[1]["state"]), each[0]))


def backend_rank(state: str) -> int:
    """Return the position of a state of a backend in the order from worst to best."""
    return _rank(_BACKENDS, state)


def outer_tunnels(tunnel: dict[str, Any]) -> list[str]:
    """Return the `via` of a tunnel as a list: the tunnels inside one of which it runs; empty if there are none."""
    via = tunnel["via"]
    return via if isinstance(via, list) else [via] if via is not None else []


def describe_via(tunnel: dict[str, Any]) -> str:
    """Return the outer tunnel of a tunnel, or all possible ones if the tunnel is not open; `-` if it has none."""
    return tunnel.get("via_in_use") or ", ".join(outer_tunnels(tunnel)) or "-"


def hops(status: dict[str, Any], name: str) -> list[str]:
    """Return a tunnel and all tunnels around it, outermost first.

    Args:
        status: The body of `/api/v1/status`.
        name: The innermost tunnel.
    """
    if name not in status["tunnels"]:
        return []
    outer = [hop for via in outer_tunnels(status["tunnels"][name]) for hop in hops(status, via)]
    return [*dict.fromkeys(outer), name]


def path_hops(status: dict[str, Any], backend: dict[str, Any]) -> list[str]:
    """Return the tunnels of all paths to a backend, outer tunnels first."""
    return list(dict.fromkeys(hop for path in backend["paths"] for hop in hops(status, path["tunnel"])))


def path_rows(label: str, backend: dict[str, Any], explained: Collection[str] = ()) -> list[list[str]]:
    """Return a row for each path, with its tunnel, state and description; empty if there is only one path.

    Args:
        label: The first cell of each row.
        backend: The backend in `/api/v1/status`.
        explained: The failed tunnels whose reasons the rows omit.
    """
    paths = backend["paths"] if len(backend["paths"]) > 1 else ()
    return [
        [
            label,
            path["tunnel"],
            "up" if path["up"] else "down",
            _describe_path(path, explained=path["tunnel"] in explained),
        ]
        for path in paths
    ]


def _describe_path(path: dict[str, Any], *, explained: bool) -> str:
    """Return why a path is down, unless this is `explained` elsewhere, and the number of its clients and switches."""
    use = f"clients: {path['clients']}, switches: {path['switches']}"
    if path["in_use"]:
        use += ", used by new clients"
    return use if path["up"] or explained else f"{format_reason(path)} ({use})"


def _rank(order: tuple[str, ...], state: str) -> int:
    """Return the position of a state; a state that is not in `order` comes first."""
    return order.index(state) if state in order else -1
