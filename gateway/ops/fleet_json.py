"""Creates the JSON that describes the fleet (a group of gateways), and this gateway's summary for other gateways."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from gateway.fleet.fleet_state import FleetState
from gateway.ops.diagnosis import diagnose
from gateway.ops.fleet_severity import worst_first
from gateway.ops.status_json import iso
from gateway.ops.status_views import ServiceView
from gateway.text_sanitizer import one_line

_MAX_PROBLEMS = 10
_MAX_DETAIL = 300


def fleet_json(view: FleetState, now: float) -> dict[str, Any]:
    """Return the body of `/api/v1/fleet`. The worst members come first.

    Args:
        view: The members of the fleet, with their last responses.
        now: The current time in seconds since the epoch, to compute the age of the members' responses.
    """
    return {
        "members": [
            {
                "name": each.member.name,
                "url": each.member.url("/"),
                "state": each.state,
                "error": each.error,
                "asked_at": iso(each.asked_at),
                "answered_at": iso(each.answered_at),
                "age_seconds": None if each.answered_at is None else round(max(0.0, now - each.answered_at), 3),
                "request_seconds": each.seconds,
                "summary": asdict(each.summary) if each.summary else None,
            }
            for each in worst_first(view.members)
        ],
        "problems": view.problems,
    }


def discovery_json(view: FleetState) -> list[dict[str, Any]]:
    """Return the body of `/api/v1/sd`, in the format of Prometheus' HTTP service discovery.

    See https://prometheus.io/docs/prometheus/latest/http_sd/.
    """
    return [
        {
            "targets": [str(each.member.endpoint)],
            "labels": {
                "__scheme__": each.member.scheme,
                "__meta_gateway_instance": each.summary.instance if each.summary else "",
                "__meta_gateway_host": each.member.server_name or each.member.endpoint.host,
            },
        }
        for each in view.members
    ]


def summary_json(view: ServiceView) -> dict[str, Any]:
    """Return the body of `/api/v1/summary`, which other gateways request to show this gateway on their fleet page."""
    return {
        "instance": view.instance,
        "version": view.version,
        "status": view.status,
        "started_at": iso(view.started_at),
        "clients": sum(each.connections for each in view.backends),
        "warnings": len(view.warnings),
        "reload_successful": view.reload_successful,
        "tunnels": dict(Counter(str(each.state) for each in view.tunnels)),
        "backends": dict(Counter(str(each.state) for each in view.backends)),
        "problems": [
            {
                "name": f"{each.part} {each.name}",
                "state": each.state,
                "reason": each.reason or "",
                "detail": one_line(each.detail or each.cause, _MAX_DETAIL),
                "since": iso(each.since),
                "effects": each.effects,
            }
            for each in diagnose(view).causes[:_MAX_PROBLEMS]
        ],
    }
