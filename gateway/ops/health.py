"""The answers of the health endpoints, as pure functions of a view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.contracts import State
from gateway.ops.answers import iso
from gateway.ops.view import BackendView, ServiceView, Standing

_READY = (State.UP, State.DEGRADED)
_PASS = {State.UP: "pass", State.DEGRADED: "warn", State.UNKNOWN: "warn", State.PAUSED: "warn"}


@dataclass(frozen=True)
class Answer:
    """An HTTP status and a JSON body."""

    status: int
    body: dict[str, Any]


def backend_ready(backend: Standing | BackendView, *, details: bool = True) -> Answer:
    """`/readyz/{backend}`; with `details`, what went wrong is said as it was met, which may name hosts and users."""
    body = {"status": backend.state, "reason": backend.reason, "since": iso(backend.since)}
    if backend.detail and details:
        body["detail"] = backend.detail
    return Answer(200 if backend.state in _READY else 503, body)


def ready(
    phase: str,
    standings: Sequence[Standing | BackendView],
    require: list[str],
    min_ready: int,
    *,
    details: bool = True,
) -> Answer:
    """`/readyz`: a remote that is down does not fail it unless it is asked for.

    Args:
        phase: `starting`, `ready` or `draining`.
        standings: How each backend stands.
        require: Backends that must be up or degraded; an unknown name fails.
        min_ready: How many backends must be.
        details: See `backend_ready`.
    """
    backends = {backend.name: backend for backend in standings}
    up = {name for name, backend in backends.items() if backend.state in _READY}
    good = phase == "ready" and up.issuperset(require) and len(up) >= min_ready
    body: dict[str, Any] = {
        "status": "ready" if good else ("draining" if phase == "draining" else "not ready"),
        "draining": phase == "draining",
        "backends": {name: backend_ready(backend, details=details).body for name, backend in backends.items()},
    }
    unknown = [name for name in require if name not in backends]
    if unknown:
        body["unknown"] = unknown
    return Answer(200 if good else 503, body)


def health(view: ServiceView, require: list[str], min_ready: int) -> Answer:
    """`/health` in the format of draft-inadarei-api-health-check-06; its status code is `/readyz`'s."""
    verdict = ready(view.status, view.backends, require, min_ready)
    checks = {
        f"{backend.name}:{target.target}": [
            {
                "componentType": "datastore",
                "status": _PASS.get(target.state, "fail"),
                "observedValue": target.last_duration,
                "observedUnit": "s",
                "time": iso(target.last_check),
                "output": target.detail,
            }
        ]
        for backend in view.backends
        for target in backend.targets
    }
    states = {_PASS.get(backend.state, "fail") for backend in view.backends}
    status = "fail" if verdict.status != 200 else ("pass" if states <= {"pass"} else "warn")
    body = {"status": status, "version": view.version, "serviceId": view.instance, "checks": checks}
    return Answer(verdict.status, body)
