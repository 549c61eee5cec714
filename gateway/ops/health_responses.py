"""Computes the responses of the health endpoints, such as readiness. Does no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.contracts.states import HealthState, ServicePhase
from gateway.ops.status_json import iso
from gateway.ops.status_views import BackendStateSummary, BackendView, ServiceView

_HEALTH_JSON_STATUS = {
    HealthState.UP: "pass",
    HealthState.DEGRADED: "warn",
    HealthState.UNKNOWN: "warn",
    HealthState.PAUSED: "warn",
}
_FAIL = "fail"


@dataclass(frozen=True)
class JsonObjectResponse:
    """A response whose body is not encoded as JSON yet.

    Args:
        status: The HTTP status code.
        body: The JSON object.
    """

    status: int
    body: dict[str, Any]


def backend_readiness(backend: BackendStateSummary | BackendView, *, details: bool = True) -> JsonObjectResponse:
    """Return the response of `/readyz/{backend}`.

    Args:
        backend: The backend.
        details: Whether to include the error text, which can contain hosts and users.
    """
    body = {"status": backend.state, "reason": backend.reason, "since": iso(backend.since)}
    if backend.detail and details:
        body["detail"] = backend.detail
    return JsonObjectResponse(200 if backend.state.is_usable else 503, body)


def readiness(
    phase: ServicePhase,
    backends: Sequence[BackendStateSummary | BackendView],
    require: list[str],
    min_ready: int,
    *,
    details: bool = True,
) -> JsonObjectResponse:
    """Return the response of `/readyz`.

    The status code is 200 if `phase` is `ready`, and the backends satisfy `require` and `min_ready`; otherwise, 503.
    With an empty `require` and a `min_ready` of 0, the status code does not depend on the backends.

    Args:
        phase: The phase of the service.
        backends: All backends.
        require: The backends that must be up or degraded. If a name is unknown, the status code is 503.
        min_ready: The number of backends that must be up or degraded.
        details: Whether to include error texts, which can contain hosts and users.
    """
    by_name = {backend.name: backend for backend in backends}
    up = {name for name, backend in by_name.items() if backend.state.is_usable}
    ready = phase is ServicePhase.READY and up.issuperset(require) and len(up) >= min_ready
    body: dict[str, Any] = {
        "status": "ready" if ready else ("draining" if phase is ServicePhase.DRAINING else "not ready"),
        "draining": phase is ServicePhase.DRAINING,
        "backends": {name: backend_readiness(backend, details=details).body for name, backend in by_name.items()},
    }
    unknown = [name for name in require if name not in by_name]
    # At startup, the ops server responds before there are backends.
    if unknown and (by_name or phase is not ServicePhase.STARTING):
        body["unknown"] = unknown
    return JsonObjectResponse(200 if ready else 503, body)


def health(view: ServiceView, require: list[str], min_ready: int) -> JsonObjectResponse:
    """Return the response of `/health`, in the format of draft-inadarei-api-health-check-06.

    The status code is that of `readiness` with the same arguments.

    Args:
        view: The state of the service.
        require: The backends that must be up or degraded.
        min_ready: The number of backends that must be up or degraded.
    """
    ready = readiness(view.status, view.backends, require, min_ready)
    checks = {
        f"{backend.name}:{target.target}": [
            {
                "componentType": "datastore",
                "status": _HEALTH_JSON_STATUS.get(target.state, _FAIL),
                "observedValue": target.last_duration,
                "observedUnit": "s",
                "time": iso(target.last_check),
                "output": target.detail,
            }
        ]
        for backend in view.backends
        for target in backend.targets
    }
    statuses = {_HEALTH_JSON_STATUS.get(backend.state, _FAIL) for backend in view.backends}
    status = _FAIL if ready.status != 200 else ("pass" if statuses <= {"pass"} else "warn")
    body = {"status": status, "version": view.version, "serviceId": view.instance, "checks": checks}
    return JsonObjectResponse(ready.status, body)
