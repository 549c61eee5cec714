"""Converts views of the service's state to the JSON responses of `/api/v1`."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from gateway.facts import FactDefinition, FactValue, texts
from gateway.ops.diagnosis import Diagnosis, diagnose
from gateway.ops.docker_views import DockerView
from gateway.ops.status_views import BackendView, ServiceView, TargetView, TunnelView


def iso(seconds: float | None) -> str | None:
    """Return a time in the format of RFC 3339.

    Args:
        seconds: Seconds since the epoch. None: the result is None, too.
    """
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _via_json(via: tuple[str, ...]) -> str | list[str] | None:
    """Return outer tunnels in the format of the configuration key `via`: None, a name, or a list of names."""
    return list(via) if len(via) > 1 else next(iter(via), None)


def tunnel_json(view: TunnelView) -> dict[str, Any]:
    """Return the JSON object of a tunnel in `/api/v1/status`."""
    return {
        "kind": view.kind,
        "via": _via_json(view.via),
        "via_in_use": view.via_in_use,
        "far_side": view.far_side,
        "state": view.state,
        "reason": view.reason,
        "detail": view.detail,
        "since": iso(view.since),
        "connects": view.connects,
        "failures": view.failures,
        "rtt_seconds": view.rtt,
        **view.details,
        "facts": texts(view.facts, view.fact_values),
    }


_COMMON_TARGET_KEYS: dict[str, FactValue] = {
    "read_only": None, "lag_seconds": None, "version": None, "identity": None, "space_bytes": {},
    "lease_seconds": None,
}  # fmt: skip
"""Keys that the JSON object of every target has in version 1 of the API, with their default values. A default value
applies if the kind of the backend does not provide the key."""


def target_json(view: TargetView, facts: Iterable[FactDefinition] = ()) -> dict[str, Any]:
    """Return the JSON object of a target in `/api/v1/status`.

    Args:
        view: The target.
        facts: The facts that the backend's kind declares.
    """
    known = {fact.key: view.facts[fact] for fact in facts if view.facts.get(fact) is not None}
    return {
        "target": view.target,
        "tunnel": view.tunnel,
        "state": view.state,
        "reason": view.reason,
        "detail": view.detail,
        "remedy": view.remedy,
        "since": iso(view.since),
        "flapping": view.flapping,
        "role": view.role,
        **_COMMON_TARGET_KEYS,
        **{fact.key: None for fact in facts if fact.key not in _COMMON_TARGET_KEYS},
        **known,
        "facts": texts(facts, view.facts),
        "last_check": iso(view.last_check),
        "last_success": iso(view.last_success),
        "last_duration_seconds": view.last_duration,
        "last_phases_seconds": view.last_phases,
        "attempts": view.attempts,
        "failures": view.failures,
        "broken_handshakes": view.broken_handshakes,
    }


def backend_json(view: BackendView) -> dict[str, Any]:
    """Return the JSON object of a backend in `/api/v1/status`."""
    return {
        "kind": view.kind,
        "via": _via_json(view.via),
        "paths": [asdict(path) for path in view.paths],
        "listen": view.listen,
        "prefer": view.prefer,
        "state": view.state,
        "reason": view.reason,
        "detail": view.detail,
        "remedy": view.remedy,
        "since": iso(view.since),
        "targets": [target_json(target, view.facts) for target in view.targets],
        "connections": {
            "active": view.connections,
            "waiting": view.waiting,
            "limit": view.max_connections,
            "total": view.connections_total,
            "rejected": view.rejected,
            "reset": view.resets,
            "bytes_to_backend": view.to_backend,
            "bytes_from_backend": view.from_backend,
        },
        "holds_clients": not view.failing,
    }


def plan_json(view: DockerView | None) -> dict[str, Any]:
    """Return the body of `/api/v1/plan`: pending changes in Docker, and the state of attachments and volumes."""
    if view is None:
        lists = ("actions", "attachments", "volumes", "shadowed_names", "dead_containers", "warnings")
        return {"configured": False, **{name: [] for name in lists}, "postponed": 0}
    return {
        "configured": True,
        "trouble": view.problem,
        "looked_at": iso(view.observed_at),
        "actions": [asdict(action) for action in view.actions],
        "attachments": [asdict(attachment) for attachment in view.attachments],
        "volumes": [asdict(volume) for volume in view.volumes],
        "shadowed_names": [asdict(each) for each in view.name_conflicts],
        "dead_containers": [asdict(each) for each in view.unavailable],
        "warnings": view.warnings,
        "postponed": view.postponed,
    }


def consumers_json(view: ServiceView) -> dict[str, Any]:
    """Return the body of `/api/v1/consumers`: which container uses which backend."""
    known = view.docker.consumers if view.docker else {}
    found: dict[str, Any] = {name: {"id": each.id, "backends": {}} for name, each in known.items()}
    for backend in view.backends:
        for name, usage in backend.consumers.items():
            found.setdefault(name, {"id": usage.id or None, "backends": {}})["backends"][backend.name] = {
                "active": usage.active,
                "waiting": usage.waiting,
                "total": usage.total,
                "rejected": usage.rejected,
                "bytes_to_backend": usage.to_backend,
                "bytes_from_backend": usage.from_backend,
                "responses": usage.latency.count,
                "mean_latency_seconds": usage.latency.sum / usage.latency.count if usage.latency.count else None,
            }
    return {"consumers": found}


def docker_json(view: DockerView | None) -> dict[str, Any] | None:
    """Return the JSON object of the Docker engine in `/api/v1/status`; None if Docker is not configured."""
    if view is None:
        return None
    return {
        "reachable": view.problem is None and view.observed_at is not None,
        "trouble": view.problem,
        "looked_at": iso(view.observed_at),
        "leader": view.leader,
        "container": view.container,
        "attachments": [asdict(attachment) for attachment in view.attachments],
        "volumes": [asdict(volume) for volume in view.volumes],
        "shadowed_names": [asdict(each) for each in view.name_conflicts],
        "dead_containers": [asdict(each) for each in view.unavailable],
        "peers": [asdict(peer) for peer in view.peers],
        "pending_actions": len(view.actions),
        "warnings": view.warnings,
        "writes": view.writes,
    }


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)  # RFC 8259 does not allow NaN


def iter_json(body: dict[str, Any]) -> Iterator[str]:
    """Yield the JSON text of an object in short pieces, so that the caller can run other tasks between two pieces.

    Args:
        body: The object. If a value is an iterator over pairs of key and value, it becomes a nested JSON object. The
            iterator can compute each pair on request.
    """
    yield "{"
    for number, (name, value) in enumerate(body.items()):
        yield f"{',' if number else ''}\n {json.dumps(name)}: "
        if isinstance(value, dict | Iterator):
            yield from _members(iter(value.items()) if isinstance(value, dict) else value)
        else:
            yield _json(value)
    yield "\n}\n"


def _members(pairs: Iterator[tuple[str, Any]]) -> Iterator[str]:
    before = "{"
    for name, value in pairs:
        yield f"{before}\n  {json.dumps(name)}: {_json(value)}"
        before = ","
    yield "{}" if before == "{" else "\n }"


def diagnosis_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the JSON object of the diagnosis in `/api/v1/status`."""
    return {
        "level": diagnosis.level,
        "headline": diagnosis.headline,
        "causes": [{**asdict(each), "since": iso(each.since), "effects": each.effects} for each in diagnosis.causes],
    }


def service_json(view: ServiceView) -> dict[str, Any]:
    """Return the body of `/api/v1/status`. Pass it to `iter_json`, because some values are iterators."""
    return {
        "status": view.status,
        "instance": view.instance,
        "version": view.version,
        "started_at": iso(view.started_at),
        "draining": view.draining,
        "accepting": view.accepting,
        "diagnosis": diagnosis_json(diagnose(view)),
        "reload": {
            "successful": view.reload_successful,
            "last_success": iso(view.reload_success_at),
            "failed_at": iso(view.reload_failed_at),
            "error": view.reload_error,
        },
        "warnings": view.warnings,
        "credentials": [
            {"kind": each.kind, "name": each.name, "what": each.what, "expires": iso(each.expires)}
            for each in view.credentials
        ],
        "io_flusher": view.io_flusher,
        "tunnels": ((tunnel.name, tunnel_json(tunnel)) for tunnel in view.tunnels),
        "backends": ((backend.name, backend_json(backend)) for backend in view.backends),
        "docker": docker_json(view.docker),
    }
