"""Finds the tunnels on the ways to a backend, and those that have failed, in `/api/v1/status`. Does no I/O."""

from typing import Any

from gateway.cli.output import format_reason


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


def hops_of_backend(status: dict[str, Any], backend: dict[str, Any]) -> list[str]:
    """Return the tunnels of all ways to a backend, outermost first."""
    return list(dict.fromkeys(hop for way in backend["ways"] for hop in hops(status, way["tunnel"])))


def failed_tunnels(status: dict[str, Any], name: str) -> list[str]:
    """Return the outermost tunnels because of which a tunnel is down; empty if the tunnel is up."""
    tunnel = status["tunnels"].get(name)
    if tunnel is None or tunnel["state"] == "up":
        return []
    outer = [failed_tunnels(status, via) for via in outer_tunnels(tunnel)]
    if outer and all(outer):
        return [each for names in outer for each in names]
    return [name]


def describe_way(way: dict[str, Any]) -> str:
    """Return why clients cannot use a way, or how they use it.

    Args:
        way: An item of `ways` of a backend in `/api/v1/status`.
    """
    use = f"clients: {way['clients']}, switches: {way['switches']}"
    if way["in_use"]:
        use += ", used by new clients"
    return use if way["up"] else f"{format_reason(way)} ({use})"
