"""Explains the state of a backend for `gateway explain`: its listeners, tunnels and targets, and what has failed.

Does no I/O.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from gateway.cli.diagnosis_output import causes_of, describe_cause
from gateway.cli.target_path_descriptions import outer_tunnels, path_hops, path_rows
from gateway.cli.value_format import format_clock, format_ms, format_reason, plain_commands
from gateway.ops.plural import plural
from gateway.ops.state_descriptions import without_remedy

_USABLE = {"up", "degraded"}


@dataclass(frozen=True)
class ExplanationRow:
    """One row of the explanation: the state of a listener, a tunnel, a target, or another part of a backend.

    Args:
        part: The kind of the row: `listener`, `admission`, `tunnel`, `path`, `target`, `phase` or `name`. An
            `admission` row shows whether the backend accepts more clients. A `path` row exists only if the backend
            has several paths. A `phase` row describes a phase of a target's last check. A `name` row describes a
            container with a name conflict: the backend's name can also resolve to another host.
        name: The address of the listener, or the name of the tunnel, target, phase or container.
        state: The state; for a phase, its duration.
        since: When the state began, in the format of RFC 3339; None if this is not known.
        why: The reason for the state, or other details.
    """

    part: str
    name: str
    state: str
    since: str | None = None
    why: str = ""


@dataclass(frozen=True)
class BackendStateExplanation:
    """Explains why a backend is in its current state.

    Args:
        rows: The rows: listeners, admission, tunnels, paths, targets with their phases, and name conflicts.
        root_causes: The failures that cause the state of the backend. Each is an item of `causes` in the diagnosis of
            `/api/v1/status`.
        warnings: The failures that concern the backend, but do not cause its state. An example is the failure of a
            tunnel that new clients do not use.
    """

    rows: list[ExplanationRow]
    root_causes: list[dict[str, Any]]
    warnings: list[dict[str, Any]]


def explanation(status: dict[str, Any], name: str) -> BackendStateExplanation:
    """Explain the state of a backend.

    Args:
        status: The body of `/api/v1/status`.
        name: The backend.
    """
    causes, is_up = causes_of(status, name), status["backends"][name]["state"] == "up"
    roots = [each for each in causes if not is_up and name not in each["rerouted"]]
    return BackendStateExplanation(list(_rows(status, name)), roots, [each for each in causes if each not in roots])


def explanation_json(status: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the explanation of a backend as a JSON object; see `explanation`."""
    backend, explained = status["backends"][name], explanation(status, name)
    causes = [*explained.root_causes, *explained.warnings]
    return {
        "backend": name,
        "kind": backend["kind"],
        "state": backend["state"],
        "since": backend["since"],
        "chain": [asdict(part) for part in explained.rows],
        "root_cause": "; ".join(map(describe_cause, explained.root_causes)) or None,
        "to_do": [plain_commands(each["remedy"]) for each in causes if each["remedy"]],
        "causes": causes,
    }


def _rows(status: dict[str, Any], name: str) -> Iterator[ExplanationRow]:
    """Yield the rows in this order: listeners, admission, tunnels, paths, targets with their phases, names."""
    backend = status["backends"][name]
    listening = "open" if status["accepting"] else "closed"
    yield from (ExplanationRow("listener", address, listening) for address in backend["listen"] or [])
    yield _admission(backend)
    for hop in path_hops(status, backend):
        tunnel = status["tunnels"][hop]
        why = format_reason(tunnel) or tunnel["far_side"]
        if len(outer_tunnels(tunnel)) > 1 and tunnel.get("via_in_use"):
            why += f", via {tunnel['via_in_use']}"
        yield ExplanationRow("tunnel", hop, tunnel["state"], tunnel["since"], why)
    for part, tunnel_name, state, why in path_rows("path", backend):
        yield ExplanationRow(part, tunnel_name, state, None, why)
    for target in backend["targets"]:
        facts = [target["role"], *target.get("facts", ())]
        why = without_remedy(format_reason(target), backend["remedy"]) or ", ".join(filter(None, facts))
        yield ExplanationRow("target", target["target"], target["state"], target["since"], why)
        yield from _phases(target)
    yield from (
        ExplanationRow(
            "name", each["container"], "shadowed", None,
            f"the name refers to {each['ours']} on network {each['network']}, and to {each['other']}",
        )
        for each in (status.get("docker") or {}).get("shadowed_names", ())
        if each["name"] == name.lower()
    )  # fmt: skip


def _admission(backend: dict[str, Any]) -> ExplanationRow:
    connections = backend["connections"]
    active, waiting, limit = (connections[key] for key in ("active", "waiting", "limit"))
    clients = f"{plural(active - waiting, 'client')} connected, {waiting} waiting, at most {limit}"
    refused = ", ".join(f"{reason} {count}" for reason, count in connections["rejected"].items())
    why = clients + (f"; clients not served since the start: {refused}" if refused else "")
    if not backend["holds_clients"]:
        return ExplanationRow(
            "admission", "clients", "no hold", None, f"{why}; clients are reset while the backend cannot be reached"
        )
    return ExplanationRow("admission", "clients", "full" if active >= limit else "open", None, why)


def _phases(target: dict[str, Any]) -> Iterator[ExplanationRow]:
    """Yield a row for each phase of the last check, in order. A failed check ends with the phase that failed."""
    phases = list(target["last_phases_seconds"].items())
    failed = target["state"] not in _USABLE and target["reason"] not in (None, "tunnel")
    for at, (phase, seconds) in enumerate(phases):
        last = at == len(phases) - 1
        why = f"last check: {format_clock(target['last_check'])}" if at == 0 else ""
        if failed and last:
            why = "; ".join(filter(None, (why, "the check failed in this phase")))
        yield ExplanationRow("phase", phase, format_ms(seconds), None, why)
