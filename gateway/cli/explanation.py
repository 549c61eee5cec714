"""Computes what `explain` prints: the path to a backend, and the root cause of a failure. Does no I/O."""

from typing import Any

from gateway.cli.output import format_reason

_USABLE = {"up", "degraded"}


def chain(status: dict[str, Any], name: str) -> list[list[str]]:
    """Return a row for each part of the path to a backend: listeners, tunnels (outermost first), ways, targets.

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
    for hop in dict.fromkeys(hop for way in backend["ways"] for hop in hops(status, way["tunnel"])):
        tunnel = status["tunnels"][hop]
        rows.append(["tunnel", hop, tunnel["state"], format_reason(tunnel) or tunnel["far_side"]])
    rows += way_rows("way", backend)
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


def way_rows(label: str, backend: dict[str, Any]) -> list[list[str]]:
    """Return a row for each way, with its tunnel, state and description; empty if there is only one way.

    Args:
        label: The first cell of each row.
        backend: The backend in `/api/v1/status`.
    """
    ways = backend["ways"] if len(backend["ways"]) > 1 else ()
    return [[label, way["tunnel"], "up" if way["up"] else "down", describe_way(way)] for way in ways]


def describe_way(way: dict[str, Any]) -> str:
    """Return why clients cannot use a way, or how they use it.

    Args:
        way: An item of `ways` of a backend in `/api/v1/status`.
    """
    use = f"clients: {way['clients']}, switches: {way['switches']}"
    if way["in_use"]:
        use += ", used by new clients"
    return use if way["up"] else f"{format_reason(way)} ({use})"


def outer_tunnels(tunnel: dict[str, Any]) -> list[str]:
    """Return the tunnels inside one of which a tunnel runs; empty if it connects directly."""
    via = tunnel["via"]
    return via if isinstance(via, list) else [via] if via is not None else []


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


def _causes(status: dict[str, Any], name: str) -> list[str]:
    """Return why a tunnel is down: the outermost tunnels that have failed; empty if the tunnel is up."""
    tunnel = status["tunnels"].get(name)
    if tunnel is None or tunnel["state"] == "up":
        return []
    outer = [_causes(status, via) for via in outer_tunnels(tunnel)]
    if outer and all(outer):
        return [cause for causes in outer for cause in causes]
    return [f"tunnel {name}: {format_reason(tunnel) or tunnel['state']}"]


def root_cause(status: dict[str, Any], name: str) -> str | None:
    """Return the outermost failed part of each way to a backend, and the reason; None if no part has failed."""
    backend = status["backends"][name]
    causes = dict.fromkeys(cause for way in backend["ways"] for cause in _causes(status, way["tunnel"]))
    if causes:
        return "; ".join(causes)
    for target in backend["targets"]:
        if target["state"] not in _USABLE:
            return f"target {target['target']}: {format_reason(target) or target['state']}"
    return None if backend["state"] in _USABLE else format_reason(backend)
