"""Describes the tunnels through which clients can reach a backend, for the output of commands. Does no I/O."""

from collections.abc import Collection
from typing import Any

from gateway.cli.value_format import format_reason


def outer_tunnels(tunnel: dict[str, Any]) -> list[str]:
    """Return a tunnel's `via` as a list, in order of preference; empty if the tunnel connects directly."""
    via = tunnel["via"]
    return via if isinstance(via, list) else [via] if via is not None else []


def describe_via(tunnel: dict[str, Any]) -> str:
    """Return the name of the tunnel inside which a tunnel runs; `-` if the tunnel connects directly.

    If the tunnel is not open, return the names of all tunnels in its `via`.
    """
    return tunnel.get("via_in_use") or ", ".join(outer_tunnels(tunnel)) or "-"


def hops(status: dict[str, Any], name: str) -> list[str]:
    """Return the names of a tunnel and of all tunnels inside which it can run, outermost first.

    Args:
        status: The body of `/api/v1/status`.
        name: The name of the tunnel.
    """
    if name not in status["tunnels"]:
        return []
    outer = [hop for via in outer_tunnels(status["tunnels"][name]) for hop in hops(status, via)]
    return [*dict.fromkeys(outer), name]


def path_hops(status: dict[str, Any], backend: dict[str, Any]) -> list[str]:
    """Return the names of all tunnels through which clients can reach a backend's targets, outer tunnels first."""
    return list(dict.fromkeys(hop for path in backend["paths"] for hop in hops(status, path["tunnel"])))


def path_rows(label: str, backend: dict[str, Any], explained: Collection[str] = ()) -> list[list[str]]:
    """Return a table row for each path of a backend.

    If the backend has only one path, return no rows, because the backend's state shows whether the path works.

    Args:
        label: The first cell of each row.
        backend: The backend in `/api/v1/status`.
        explained: Tunnels whose failures another part of the output explains. Their rows omit the reason.
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
    """Return how many clients use a path, and how often clients have switched to the path.

    If the path is down, also return the reason.

    Args:
        path: An item of `paths` of a backend in `/api/v1/status`.
        explained: Whether to omit the reason, because another part of the output contains it.
    """
    use = f"clients: {path['clients']}, switches: {path['switches']}"
    if path["in_use"]:
        use += ", used by new clients"
    return use if path["up"] or explained else f"{format_reason(path)} ({use})"
