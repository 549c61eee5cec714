"""Tests which state changes of the running gateway become events."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from gateway.app.state_change_reporter import StateChangeReporter
from gateway.contracts.states import HealthState, TunnelState
from gateway.errors import FailureReason
from gateway.health.target_selection import BackendHealth
from gateway.ops.events import EventLog


def checked(address: str, state: HealthState, *, finished: bool = True) -> Any:
    candidate = SimpleNamespace(target=address, state=state, reason=None, detail="")
    return SimpleNamespace(candidate=lambda: candidate, is_checked=finished)


def running(state: HealthState, *targets: Any) -> Any:
    return SimpleNamespace(
        spec=SimpleNamespace(name="orders"),
        targets=targets,
        evaluate=lambda: BackendHealth(state, FailureReason.REFUSED, "cannot connect"),
    )


def observed(runtime: Any) -> tuple[Any, EventLog]:
    log = EventLog()
    return StateChangeReporter(runtime, log), log


def brief(log: EventLog) -> list[tuple[str, str | None, str]]:
    return [(each.subject.type, each.subject.target or each.subject.name, each.state) for each in log.latest()]


def test_a_backend_without_a_result_causes_no_event() -> None:
    runtime = Mock()
    _, log = observed(runtime)
    unfinished = checked("b:1", HealthState.UNKNOWN, finished=False)
    runtime.on_check_result(running(HealthState.UNKNOWN, unfinished))
    runtime.on_check_result(running(HealthState.DOWN, checked("a:1", HealthState.DOWN), unfinished))
    assert brief(log) == [("target", "a:1", "down")]
    runtime.on_check_result(running(HealthState.UP, checked("a:1", HealthState.DOWN), checked("b:1", HealthState.UP)))
    runtime.on_check_result(
        running(HealthState.DOWN, checked("a:1", HealthState.DOWN), checked("b:1", HealthState.DOWN))
    )
    assert brief(log)[1:] == [("target", "b:1", "down"), ("backend", "orders", "down")]
    assert log.latest()[-1].reason == "refused"


def test_a_blocked_target_and_its_recovery_cause_no_event() -> None:
    runtime = Mock()
    _, log = observed(runtime)
    for target, backend in ((HealthState.UP, HealthState.UP), (HealthState.BLOCKED, HealthState.BLOCKED),
                            (HealthState.UP, HealthState.UP), (HealthState.DOWN, HealthState.DOWN)):  # fmt: skip
        runtime.on_check_result(running(backend, checked("a:1", target)))
    events = [("backend", "orders", "blocked"), ("backend", "orders", "up"), ("target", "a:1", "down")]
    assert brief(log) == [*events, ("backend", "orders", "down")]


def test_attempts_to_open_a_tunnel_cause_no_event() -> None:
    runtime = Mock()
    uplink = Mock(reason=FailureReason.AUTH, detail="no", since=0.0, connects=0, failures={}, link=None, opened=None)
    runtime.uplinks.of_tunnel = lambda _: [uplink]
    transitions, log = observed(runtime)
    for state in (
        TunnelState.CONNECTING, TunnelState.BACKOFF, TunnelState.CONNECTING, TunnelState.BACKOFF, TunnelState.UP,
        TunnelState.STOPPED,
    ):  # fmt: skip
        uplink.state = state
        runtime.uplinks.on_change("bastion")
    assert [each[2] for each in brief(log)] == ["backoff", "up"]
    transitions.close()
    uplink.state = TunnelState.BACKOFF
    runtime.uplinks.on_change("bastion")
    assert len(log.latest()) == 2
