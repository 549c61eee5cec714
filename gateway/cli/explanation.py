"""Computes what `explain` prints: the path to a backend, and the root cause of a failure. Does no I/O."""

from typing import Any

from gateway.cli.output import format_reason

_USABLE = {"up", "degraded"}


def chain(status: dict[str, Any], name: str) -> list[list[str]]:
    """Return a row for each part of the path to a backend: listeners, tunnels (outermost first), targets.

    Args:
        status: The body of `/api/v1/status`.
        name: The backend.

    Returns:
        Rows of part, name, state and reason.
    """
    backend = status["backends"][name]
    clients = f"{backend['connections']['active']} clients"
    if not backend["holds_clients"]:
        clients += f", not held while the path is down (gateway fail {name} --undo)"
    rows = [["listener", address, "open", clients] for address in backend["listen"] or []]
    for hop in hops(status, backend["via"]):
        tunnel = status["tunnels"][hop]
        rows.append(["tunnel", hop, tunnel["state"], format_reason(tunnel) or tunnel["far_side"]])
    for target in backend["targets"]:
        facts = [target["role"], *target.get("facts", ())]
        reason = format_reason(target) or ", ".join(filter(None, facts))
        rows.append(["target", target["target"], target["state"], reason])
    rows += [
        ["name", each["container"], "shadowed", f"{each['ours']} on network {each['network']}, and {each['other']}"]
        for each in (status.get("docker") or {}).get("shadowed_names", ())
        if each["name"] == name.lower()
    ]
    return rows


def chain_json(backend: dict[str, Any], name: str, rows: list[list[str]], cause: str | None) -> dict[str, Any]:
    """Return the explanation of a backend as a JSON object.

    Args:
        backend: The backend in `/api/v1/status`.
        name: The name of the backend.
        rows: The result of `chain`.
        cause: The result of `root_cause`.
    """
    keys = ("part", "name", "state", "why")
    return {
        "backend": name,
        "kind": backend["kind"],
        "state": backend["state"],
        "since": backend["since"],
        "chain": [dict(zip(keys, row, strict=True)) for row in rows],
        "root_cause": cause,
    }


def hops(status: dict[str, Any], via: str | None) -> list[str]:
    """Return the tunnels of a chain, outermost first.

    Args:
        status: The body of `/api/v1/status`.
        via: The innermost tunnel; None if the path has no tunnel.
    """
    found: list[str] = []
    while via is not None and via in status["tunnels"]:
        found.insert(0, via)
        via = status["tunnels"][via]["via"]
    return found


def root_cause(status: dict[str, Any], name: str) -> str | None:
    """Return the outermost failed part of a backend's path, and the reason; None if no part has failed."""
    backend = status["backends"][name]
    for hop in hops(status, backend["via"]):
        tunnel = status["tunnels"][hop]
        if tunnel["state"] != "up":
            return f"tunnel {hop}: {format_reason(tunnel) or tunnel['state']}"
    for target in backend["targets"]:
        if target["state"] not in _USABLE:
            return f"target {target['target']}: {format_reason(target) or target['state']}"
    return None if backend["state"] in _USABLE else format_reason(backend)
