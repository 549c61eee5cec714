import time
from dataclasses import replace

from gateway.contracts.states import HealthState, ServicePhase
from gateway.metric_types import Histogram
from gateway.ops.health_responses import health, readiness
from gateway.ops.metrics import render
from gateway.ops.status_views import BackendView, ServiceView


def backend(name: str, state: HealthState) -> BackendView:
    return BackendView(
        name=name, kind="mysql", via=(), listen=[], prefer="order", state=state,
        reason=None if state is HealthState.UP else "refused", detail="", since=time.time(), targets=[],
        connections=0, connections_total=0, rejected={}, resets={}, to_backend=0, from_backend=0, latency=Histogram(),
    )  # fmt: skip


VIEW = ServiceView(
    version="1", python_version="3", instance="here", started_at=0, startup_done=True, draining=False,
    reload_successful=True, reload_success_at=0, reload_error="", tunnels=[],
    backends=[
        backend("good", HealthState.UP), backend("soso", HealthState.DEGRADED), backend("bad", HealthState.DOWN),
    ],
    loop_lag=Histogram(),
)  # fmt: skip


def test_a_remote_that_is_down_does_not_fail_readiness() -> None:
    answer = readiness(ServicePhase.READY, VIEW.backends, [], 0)
    assert answer.status == 200
    assert answer.body["backends"]["bad"]["status"] == "down"
    assert answer.body["backends"]["bad"]["reason"] == "refused"


def test_a_required_backend_that_is_down_fails_readiness() -> None:
    assert readiness(ServicePhase.READY, VIEW.backends, ["good", "soso"], 0).status == 200
    assert readiness(ServicePhase.READY, VIEW.backends, ["good", "bad"], 0).status == 503
    assert readiness(ServicePhase.READY, VIEW.backends, [], 2).status == 200
    assert readiness(ServicePhase.READY, VIEW.backends, [], 3).status == 503
    assert readiness(ServicePhase.READY, VIEW.backends, ["gone"], 0).body["unknown"] == ["gone"]


def test_not_ready_while_starting_and_draining() -> None:
    assert readiness(ServicePhase.STARTING, VIEW.backends, [], 0).status == 503
    assert readiness(ServicePhase.STARTING, VIEW.backends, ["gone"], 0).body["unknown"] == ["gone"]
    before_the_configuration_is_applied = readiness(ServicePhase.STARTING, [], ["good"], 0)
    assert before_the_configuration_is_applied.status == 503
    assert "unknown" not in before_the_configuration_is_applied.body
    assert readiness(ServicePhase.READY, [], ["gone"], 0).body["unknown"] == ["gone"]
    draining = readiness(ServicePhase.DRAINING, VIEW.backends, [], 0)
    assert (draining.status, draining.body["status"], draining.body["draining"]) == (503, "draining", True)


def test_health_json() -> None:
    assert health(VIEW, [], 0).body["status"] == "warn"
    assert health(replace(VIEW, backends=VIEW.backends[:1]), [], 0).body["status"] == "pass"
    assert health(VIEW, ["bad"], 0).body["status"] == "fail"


def test_an_invalid_accept_header_gives_the_text_format() -> None:
    _, content_type = render(VIEW, "application/openmetrics-text; version=x")
    assert content_type.startswith("text/plain")


def test_openmetrics_is_returned_on_request() -> None:
    text, content_type = render(VIEW, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    text, content_type = render(VIEW, "text/plain")
    assert b'gateway_backend_state{backend="bad",state="down"} 1.0' in text
    assert b"_created" not in text
