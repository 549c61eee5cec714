"""What `explain` prints: a backend's chain with the root cause of what is wrong, or a container's facts. Pure."""

from typing import Any

_GOOD = {"up", "degraded"}


def chain(status: dict[str, Any], name: str) -> list[list[str]]:
    """Rows of `part, name, state, what there is to say`: listeners, tunnels outermost first, targets."""
    backend = status["backends"][name]
    clients = f"{backend['connections']['active']} clients"
    if not backend["holds_clients"]:
        clients += f", not held while the path is down (gateway fail {name} --undo)"
    rows = [["listener", address, "open", clients] for address in backend["listen"] or []]
    for hop in hops(status, backend["via"]):
        tunnel = status["tunnels"][hop]
        rows.append(["tunnel", hop, tunnel["state"], _why(tunnel) or tunnel["far_side"]])
    for target in backend["targets"]:
        facts = [target["role"], *target.get("facts", ())]
        rows.append(["target", target["target"], target["state"], _why(target) or ", ".join(filter(None, facts))])
    rows += [
        ["name", each["container"], "shadowed", f"{each['ours']} on network {each['network']}, and {each['other']}"]
        for each in (status.get("docker") or {}).get("shadowed_names", ())
        if each["name"] == name.lower()
    ]
    return rows


def chain_json(backend: dict[str, Any], name: str, rows: list[list[str]], cause: str | None) -> dict[str, Any]:
    """The same as one object."""
    keys = ("part", "name", "state", "why")
    return {
        "backend": name,
        "kind": backend["kind"],
        "state": backend["state"],
        "since": backend["since"],
        "chain": [dict(zip(keys, row, strict=True)) for row in rows],
        "root_cause": cause,
    }


def facts(told: dict[str, Any]) -> list[list[str]]:
    """Rows of what there is to say of a container."""
    return [[each["part"], each["name"], each["state"], each["why"]] for each in told["facts"]]


def backends(told: dict[str, Any]) -> list[list[str]]:
    """Rows of the backends that a container reaches, or does not."""
    return [[each["backend"], each["reached"], each["network"] or "-", each["why"]] for each in told["backends"]]


def hops(status: dict[str, Any], via: str | None) -> list[str]:
    """The tunnels of a chain, outermost first."""
    found: list[str] = []
    while via is not None and via in status["tunnels"]:
        found.insert(0, via)
        via = status["tunnels"][via]["via"]
    return found


def root_cause(status: dict[str, Any], name: str) -> str | None:
    """The outermost part that fails, which is the one to mend; None when nothing does."""
    backend = status["backends"][name]
    for hop in hops(status, backend["via"]):
        tunnel = status["tunnels"][hop]
        if tunnel["state"] != "up":
            return f"tunnel {hop}: {_why(tunnel) or tunnel['state']}"
    for target in backend["targets"]:
        if target["state"] not in _GOOD:
            return f"target {target['target']}: {_why(target) or target['state']}"
    return None if backend["state"] in _GOOD else _why(backend)


def _why(part: dict[str, Any]) -> str:
    return f"{part['reason']}: {part['detail']}" if part["reason"] else str(part["detail"])
