"""Computes what `explain` prints: the path to a backend, the root cause of a failure, and what to do. Does no I/O."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from gateway.cli.output import format_clock, format_count, format_ms, format_reason, format_state
from gateway.cli.severity import root_tunnels, way_hops, way_rows
from gateway.tunnels import tunnel_remedy

_USABLE = {"up", "degraded"}


@dataclass(frozen=True)
class PathPart:
    """One part of the path to a backend.

    Args:
        part: `listener`, `admission`, `tunnel`, `way`, `target`, `phase` or `name`.
        name: The address, tunnel, target, phase or container.
        state: The state; for a phase, its duration.
        since: When the state began, in the format of RFC 3339; None if this is not known.
        why: The reason of the state, or other details.
    """

    part: str
    name: str
    state: str
    since: str | None = None
    why: str = ""


@dataclass(frozen=True)
class BackendExplanation:
    """Why a backend has its state.

    Args:
        parts: The path in the order in which a client takes it.
        cause: The outermost part that has failed, and its reason; None if no part has failed.
        to_do: What to do, as sentences in the imperative.
    """

    parts: list[PathPart]
    cause: str | None
    to_do: list[str]


def explanation(status: dict[str, Any], name: str) -> BackendExplanation:
    """Explain the state of a backend.

    Args:
        status: The body of `/api/v1/status`.
        name: The backend.
    """
    return BackendExplanation(list(_parts(status, name)), root_cause(status, name), list(_to_do(status, name)))


def explanation_json(status: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the explanation of a backend as a JSON object; see `explanation`."""
    backend, explained = status["backends"][name], explanation(status, name)
    return {
        "backend": name,
        "kind": backend["kind"],
        "state": backend["state"],
        "since": backend["since"],
        "chain": [asdict(part) for part in explained.parts],
        "root_cause": explained.cause,
        "to_do": explained.to_do,
    }


def _parts(status: dict[str, Any], name: str) -> Iterator[PathPart]:
    """Yield the path: listeners, admission, tunnels (outermost first), ways, and each target with its phases."""
    backend = status["backends"][name]
    yield from (PathPart("listener", address, "open") for address in backend["listen"] or [])
    yield _admission(backend)
    for hop in way_hops(status, backend):
        tunnel = status["tunnels"][hop]
        yield PathPart("tunnel", hop, tunnel["state"], tunnel["since"], format_reason(tunnel) or tunnel["far_side"])
    for part, tunnel_name, state, why in way_rows("way", backend):
        yield PathPart(part, tunnel_name, state, None, why)
    for target in backend["targets"]:
        facts = [target["role"], *target.get("facts", ())]
        why = format_reason(target) or ", ".join(filter(None, facts))
        yield PathPart("target", target["target"], target["state"], target["since"], why)
        yield from _phases(target)
    yield from (
        PathPart(
            "name", each["container"], "shadowed", None,
            f"{each['ours']} on network {each['network']}, and {each['other']}",
        )
        for each in (status.get("docker") or {}).get("shadowed_names", ())
        if each["name"] == name.lower()
    )  # fmt: skip


def _admission(backend: dict[str, Any]) -> PathPart:
    connections = backend["connections"]
    active, waiting, limit = (connections[key] for key in ("active", "waiting", "limit"))
    clients = f"{format_count(active - waiting, 'client')} connected, {waiting} waiting, at most {limit}"
    refused = ", ".join(f"{reason} {count}" for reason, count in connections["rejected"].items())
    why = clients + (f"; not served since the start: {refused}" if refused else "")
    if not backend["holds_clients"]:
        return PathPart("admission", "clients", "no hold", None, f"{why}; not held while the path is down")
    return PathPart("admission", "clients", "full" if active >= limit else "open", None, why)


def _phases(target: dict[str, Any]) -> Iterator[PathPart]:
    """Yield the phases of the last check. If the check failed, it ended in the last one."""
    phases = list(target["last_phases_seconds"].items())
    failed = target["state"] not in _USABLE and target["reason"] not in (None, "tunnel")
    for at, (phase, seconds) in enumerate(phases):
        last = at == len(phases) - 1
        why = f"last check: {format_clock(target['last_check'])}" if at == 0 else ""
        if failed and last:
            why = "; ".join(filter(None, (why, "the check ended here")))
        yield PathPart("phase", phase, format_ms(seconds), None, why)


def root_cause(status: dict[str, Any], name: str) -> str | None:
    """Return the outermost failed part of each way to a backend, and the reason; None if no part has failed."""
    failed = _failed_parts(status, name)
    causes = [
        f"{what} is {format_state(part['state'])}: {format_reason(part) or 'no reason is known'}"
        for what, part in failed
    ]
    return "; ".join(causes) or None


def _failed_parts(status: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the outermost parts that have failed, with a description of each."""
    backend = status["backends"][name]
    roots = dict.fromkeys(root for way in backend["ways"] for root in root_tunnels(status, way["tunnel"]))
    if roots:
        return [(f"tunnel {root}", status["tunnels"][root]) for root in roots]
    for states in (("down", "blocked", "unknown", "paused"), ("degraded",)):
        for target in backend["targets"]:
            if target["state"] in states and target["state"] != "up":
                return [(f"target {target['target']}", target)]
    return [] if backend["state"] == "up" else [(f"backend {name}", backend)]


def _to_do(status: dict[str, Any], name: str) -> Iterator[str]:
    """Yield what to do, as sentences in the imperative."""
    backend = status["backends"][name]
    for what, part in _failed_parts(status, name):
        yield from _repair(name, what, part)
    if not backend["holds_clients"]:
        yield f"run gateway fail {name} --undo to hold clients again while the path is down"
    if backend["connections"]["active"] >= backend["connections"]["limit"]:
        yield f"raise backends.{name}.max_connections, or close idle clients"


def _repair(name: str, what: str, part: dict[str, Any]) -> Iterator[str]:
    if part["state"] == "paused":
        yield f"run gateway resume {name} to check the backend again"
        return
    is_tunnel = what.startswith("tunnel ")
    remedy = tunnel_remedy(part["kind"], part["reason"]) if is_tunnel else part["remedy"]
    if remedy:
        yield remedy
    elif part["detail"]:
        yield f"see the reason: {part['detail']}"
    if is_tunnel and part["state"] == "quarantined":
        yield f"then run gateway reconnect {what.removeprefix('tunnel ')}, because the gateway rarely retries"
