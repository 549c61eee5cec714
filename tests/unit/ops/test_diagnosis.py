"""Tests which causes the diagnosis lists, and which effects it lists for each cause."""

import pytest

from gateway.contracts.states import HealthState, TunnelState
from gateway.ops.diagnosis import diagnose
from gateway.ops.severity import DisplaySeverity
from tests.support.status_views import NOW, backend, consumer, service, tunnel

DOCKER = object()


def test_a_healthy_service_has_no_cause() -> None:
    found = diagnose(service([tunnel()], [backend("a", via=["bastion"]), backend("b")]))
    assert (found.level, found.headline, found.causes) == (DisplaySeverity.GOOD, "All 2 backends are up", [])


def test_a_failed_tunnel_is_the_only_cause_for_the_backends_behind_it() -> None:
    down = tunnel("edge", TunnelState.BACKOFF, reason="auth", since=NOW - 60)
    inner = tunnel("inner", TunnelState.WAITING, via=["edge"], reason="tunnel")
    backends = [
        backend("a", HealthState.BLOCKED, via=["edge"], waiting=2, connections=3),
        backend("b", HealthState.BLOCKED, via=["inner"], waiting=1, connections=1),
        backend("c"),
    ]
    found = diagnose(service([inner, down], backends))
    assert found.level is DisplaySeverity.BAD
    assert found.headline == "3 backends: 2 blocked, 1 up"
    [cause] = found.causes
    assert (cause.name, cause.since, cause.cause, cause.blocked) == ("edge", NOW - 60, "login rejected", ("a", "b"))
    assert (cause.waiting, cause.waiters) == (3, "client")
    assert "authorized-keys" in cause.remedy


def test_a_backend_with_a_path_that_works_is_not_blocked() -> None:
    tunnels = [tunnel("a", TunnelState.BACKOFF, reason="timeout"), tunnel("b")]
    [cause] = diagnose(service(tunnels, [backend("x", via=["a", "b"])])).causes
    assert (cause.name, cause.level, cause.blocked, cause.rerouted) == ("a", DisplaySeverity.WARNING, (), ("x",))
    assert cause.effects == "1 backend rerouted"


def test_a_tunnel_inside_another_outer_tunnel_is_counted() -> None:
    edges = [tunnel("a", TunnelState.BACKOFF, reason="timeout"), tunnel("b")]
    inner = tunnel("inner", via=("a", "b"))
    [cause] = diagnose(service([*edges, inner, tunnel("other", via=("b",))], [backend("x", via=["inner"])])).causes
    assert (cause.rerouted, cause.rerouted_tunnels) == ((), ("inner",))
    assert cause.effects == "1 tunnel rerouted"


def test_each_path_of_a_blocked_backend_has_a_cause() -> None:
    tunnels = [
        tunnel("a", TunnelState.BACKOFF, reason="timeout"),
        tunnel("b", TunnelState.QUARANTINED, reason="auth"),
        tunnel("inner", TunnelState.WAITING, via=("a", "b"), reason="tunnel"),
    ]
    found = diagnose(service(tunnels, [backend("x", HealthState.BLOCKED, via=["inner"]), backend("y")]))
    assert [(cause.name, cause.blocked) for cause in found.causes] == [("a", ("x",)), ("b", ("x",))]


def test_waiting_containers_are_counted_once() -> None:
    uses = {"web": consumer(2, waiting=2), "job": consumer(1, waiting=1), "idle": consumer(1)}
    down = tunnel(state=TunnelState.QUARANTINED, reason="host_key")
    backends = [backend(name, HealthState.BLOCKED, via=["bastion"], consumers=uses) for name in "ab"]
    [cause] = diagnose(service([down], backends, docker=DOCKER)).causes
    assert (cause.waiting, cause.waiters) == (2, "container")


@pytest.mark.parametrize(
    ("state", "level"),
    [
        (HealthState.DOWN, DisplaySeverity.BAD),
        (HealthState.DEGRADED, DisplaySeverity.WARNING),
        (HealthState.PAUSED, DisplaySeverity.WARNING),
    ],
)
def test_a_backend_with_a_failure_behind_its_tunnel_is_a_cause(state: HealthState, level: DisplaySeverity) -> None:
    found = diagnose(service([tunnel()], [backend("a", state, via=["bastion"], reason="refused"), backend("b")]))
    assert (found.level, [each.name for each in found.causes]) == (level, ["a"])


def test_the_worst_causes_come_first() -> None:
    backends = [backend(f"n{at}", HealthState.DEGRADED, since=NOW - at) for at in range(3)]
    blocked = [backend(f"x{at}", HealthState.BLOCKED, via=["bastion"]) for at in range(3)]
    down = [backend("down", HealthState.DOWN, since=NOW - 100)]
    found = diagnose(service([tunnel(state=TunnelState.SUSPECT)], [*backends, *blocked, *down]))
    assert [each.name for each in found.causes] == ["bastion", "down", "n2", "n1", "n0"]


def test_a_tunnel_that_degrades_a_backend_is_its_cause() -> None:
    tunnels = [tunnel("a", TunnelState.BACKOFF, reason="timeout"), tunnel("b")]
    split = backend("split", HealthState.DEGRADED, via=["a", "b"], reason="tunnel", waiting=1)
    [cause] = diagnose(service(tunnels, [split])).causes
    assert (cause.name, cause.level, cause.effects) == ("a", DisplaySeverity.WARNING, "1 backend degraded")
    assert cause.explains("split")


def test_a_retry_of_a_tunnel_is_not_a_recovery_and_a_first_attempt_is_not_a_failure() -> None:
    retrying = tunnel(state=TunnelState.AUTHENTICATING, reason="timeout")
    [cause] = diagnose(service([retrying], [backend("a", HealthState.BLOCKED, via=["bastion"])])).causes
    assert (cause.state, cause.cause) == ("down", "no response in time")
    assert diagnose(service([tunnel(state=TunnelState.CONNECTING)], [backend()])).causes == []
    assert diagnose(service([tunnel(state=TunnelState.DRAINING)], [backend(via=["bastion"])])).causes == []


def test_a_working_backend_that_refuses_clients_is_a_warning() -> None:
    full = backend("full", max_connections=2, connections=2)
    found = diagnose(service(backends=[full, backend("fast", failing=True)])).causes
    assert {(each.name, each.level, each.state) for each in found} == {
        ("full", DisplaySeverity.WARNING, "up"),
        ("fast", DisplaySeverity.WARNING, "up"),
    }
    assert "gateway fail fast --undo" in next(each.remedy for each in found if each.name == "fast")


@pytest.mark.parametrize(
    ("state", "reason", "only_check"),
    [
        (HealthState.DEGRADED, "auth", True), (HealthState.DOWN, "auth", False), (HealthState.DEGRADED, "lag", False),
    ],
)  # fmt: skip
def test_a_refused_login_of_the_check_does_not_affect_clients(
    state: HealthState, reason: str, only_check: bool
) -> None:
    failed = backend("a", state, reason=reason, detail="Access denied: set check.user", remedy="set check.user")
    [cause] = diagnose(service(backends=[failed])).causes
    assert cause.effects == ("only the check fails, clients are served" if only_check else "")
    assert (cause.detail, cause.remedy) == ("Access denied", "set check.user")


def test_phases_and_a_failed_reload_are_warnings() -> None:
    starting = diagnose(service(backends=[backend(state=HealthState.UNKNOWN)], startup_done=False))
    assert (starting.level, starting.causes) == (DisplaySeverity.WARNING, [])
    assert starting.headline.startswith("Starting")
    draining = diagnose(service(backends=[backend()], draining=True))
    assert (draining.level, draining.headline) == (DisplaySeverity.WARNING, "Draining, not ready: the backend is up")
    assert diagnose(service(backends=[backend()], reload_successful=False)).level is DisplaySeverity.WARNING
    assert diagnose(service()).headline == "No backend is configured"
