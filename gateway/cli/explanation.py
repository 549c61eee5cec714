"""Computes the output of `gateway explain`: the parts of a backend, the root causes and the remedies. Does no I/O."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from gateway.cli.diagnosis import causes_of, describe_cause
from gateway.cli.output import format_clock, format_count, format_ms, format_reason, plain_commands
from gateway.cli.severity import outer_tunnels, path_hops, path_rows
from gateway.ops.reason_descriptions import without_remedy

_USABLE = {"up", "degraded"}


@dataclass(frozen=True)
class PathPart:
    """One part between a listener of a backend and its targets, with its state.

    Args:
        part: `listener`, `admission`, `tunnel`, `path`, `target`, `phase` or `name`.
        name: The address, tunnel, target, phase or container.
        state: The state; for a phase, its duration.
        since: When the state began, in the format of RFC 3339; None if this is not known.
        why: Why the part has this state, or other details.
    """

    part: str
    name: str
    state: str
    since: str | None = None
    why: str = ""


@dataclass(frozen=True)
class BackendExplanation:
    """Explains why a backend is in its current state.

    Args:
        parts: The parts in the order in which a client passes them.
        root_causes: The failed parts that cause the state of the backend, as in `/api/v1/status`.
        warnings: Other failed parts between a listener and the targets, such as a tunnel of another path.
    """

    parts: list[PathPart]
    root_causes: list[dict[str, Any]]
    warnings: list[dict[str, Any]]


def explanation(status: dict[str, Any], name: str) -> BackendExplanation:
    """Explain the state of a backend.

    Args:
        status: The body of `/api/v1/status`.
        name: The backend.
    """
    causes, is_up = causes_of(status, name), status["backends"][name]["state"] == "up"
    roots = [each for each in causes if not is_up and name not in each["rerouted"]]
    return BackendExplanation(list(_parts(status, name)), roots, [each for each in causes if each not in roots])


def explanation_json(status: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the explanation of a backend as a JSON object; see `explanation`."""
    backend, explained = status["backends"][name], explanation(status, name)
    causes = [*explained.root_causes, *explained.warnings]
    return {
        "backend": name,
        "kind": backend["kind"],
        "state": backend["state"],
        "since": backend["since"],
        "chain": [asdict(part) for part in explained.parts],
        "root_cause": "; ".join(map(describe_cause, explained.root_causes)) or None,
        "to_do": [plain_commands(each["remedy"]) for each in causes if each["remedy"]],
        "causes": causes,
    }


def _parts(status: dict[str, Any], name: str) -> Iterator[PathPart]:
    """Yield the parts: listeners, admission, tunnels (outermost first), paths, and each target with its phases."""
    backend = status["backends"][name]
    listening = "open" if status["accepting"] else "closed"
    yield from (PathPart("listener", address, listening) for address in backend["listen"] or [])
    yield _admission(backend)
    for hop in path_hops(status, backend):
        tunnel = status["tunnels"][hop]
        why = format_reason(tunnel) or tunnel["far_side"]
        if len(outer_tunnels(tunnel)) > 1 and tunnel.get("via_in_use"):
            why += f", via {tunnel['via_in_use']}"
        yield PathPart("tunnel", hop, tunnel["state"], tunnel["since"], why)
    for part, tunnel_name, state, why in path_rows("path", backend):
        yield PathPart(part, tunnel_name, state, None, why)
    for target in backend["targets"]:
        facts = [target["role"], *target.get("facts", ())]
        why = without_remedy(format_reason(target), backend["remedy"]) or ", ".join(filter(None, facts))
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
    """Yield the phases of the last check, in order. If the check failed, it failed in the last phase."""
    phases = list(target["last_phases_seconds"].items())
    failed = target["state"] not in _USABLE and target["reason"] not in (None, "tunnel")
    for at, (phase, seconds) in enumerate(phases):
        last = at == len(phases) - 1
        why = f"last check: {format_clock(target['last_check'])}" if at == 0 else ""
        if failed and last:
            why = "; ".join(filter(None, (why, "the check ended here")))
        yield PathPart("phase", phase, format_ms(seconds), None, why)
