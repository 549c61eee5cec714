"""Orders tunnels and backends by their state, worst first, and sums up the state of a service. Does no I/O."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from gateway.cli.output import format_age, format_clock, format_count, format_reason, format_state

_UNUSABLE = ("down", "blocked")
_BACKENDS = ("down", "blocked", "degraded", "unknown", "paused", "up")
_TUNNELS = (
    "quarantined", "backoff", "resolving", "connecting", "authenticating", "suspect", "waiting", "idle", "draining",
    "stopped", "up",
)  # fmt: skip
_OPEN = ("up", "draining", "stopped")
"""States of a tunnel that need no action."""


def backends_by_severity(status: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the backends in `/api/v1/status`, worst first, then by name."""
    return sorted(status["backends"].items(), key=lambda each: (backend_rank(each[1]["state"]), each[0]))


def tunnels_by_severity(status: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the tunnels in `/api/v1/status`, worst first, then by name."""
    return sorted(status["tunnels"].items(), key=lambda each: (_rank(_TUNNELS, each[1]["state"]), each[0]))


def backend_rank(state: str) -> int:
    """Return the position of a state of a backend in the order from worst to best."""
    return _rank(_BACKENDS, state)


def headline(status: dict[str, Any]) -> str:
    """Return one line about the service: its phase, the number of unusable backends, its age and version."""
    age, began = format_age(status["started_at"]), format_clock(status["started_at"])
    unusable = sum(each["state"] in _UNUSABLE for each in status["backends"].values())
    trouble = f", {unusable} of {format_count(len(status['backends']), 'backend')} not usable" if unusable else ""
    since = f"running since {began} ({age}), version {status['version']}"
    return f"{status['instance']}: {status['status']}{trouble}; {since}"


def verdict(status: dict[str, Any]) -> list[str]:
    """Return what does not work, one line for each cause, then the number of backends and clients.

    A tunnel that is down is one cause, with the number of the backends that are blocked.
    """
    return [*_causes(status), _totals(status)]


def _causes(status: dict[str, Any]) -> Iterator[str]:
    for name, tunnel in tunnels_by_severity(status):
        if tunnel["state"] in _OPEN or root_tunnels(status, name) != [name]:
            continue
        blocked = sum(
            each["state"] == "blocked" and name in way_hops(status, each) for each in status["backends"].values()
        )
        effect = f": {format_count(blocked, 'backend')} blocked" if blocked else ""
        yield f"tunnel {name} is {_since(tunnel)}{effect}: {format_reason(tunnel)}"
    for name, backend in backends_by_severity(status):
        if backend["state"] in ("down", "degraded"):
            yield f"backend {name} is {_since(backend)}: {format_reason(backend)}"
        if not backend["holds_clients"]:
            yield f"backend {name} does not hold clients while its path is down (gateway fail {name} --undo)"


def _since(part: dict[str, Any]) -> str:
    return f"{format_state(part['state'])} since {format_clock(part['since'])}"


def _totals(status: dict[str, Any]) -> str:
    backends = status["backends"].values()
    counts = Counter(each["state"] for each in backends)
    states = ", ".join(f"{counts[state]} {state}" for state in _BACKENDS if counts[state])
    active = sum(each["connections"]["active"] for each in backends)
    waiting = sum(each["connections"]["waiting"] for each in backends)
    clients = f"{format_count(active - waiting, 'client')} connected, {waiting} waiting"
    return f"{format_count(len(status['backends']), 'backend')}: {states or 'none'}; {clients}"


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


def way_hops(status: dict[str, Any], backend: dict[str, Any]) -> list[str]:
    """Return the tunnels of all ways to a backend, outer tunnels first."""
    return list(dict.fromkeys(hop for way in backend["ways"] for hop in hops(status, way["tunnel"])))


def root_tunnels(status: dict[str, Any], name: str) -> list[str]:
    """Return the outermost tunnels that have failed, and because of which a tunnel is down; empty if it is up."""
    tunnel = status["tunnels"].get(name)
    if tunnel is None or tunnel["state"] == "up":
        return []
    outer = [root_tunnels(status, via) for via in outer_tunnels(tunnel)]
    return [root for roots in outer for root in roots] if outer and all(outer) else [name]


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


def _rank(order: tuple[str, ...], state: str) -> int:
    """Return the position of a state; a state that is not in `order` comes first."""
    return order.index(state) if state in order else -1
