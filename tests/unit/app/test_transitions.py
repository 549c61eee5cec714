"""Which changes of a site become events."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from gateway.app.transitions import Transitions
from gateway.contracts.states import HealthState, TunnelState
from gateway.errors import Reason
from gateway.health.target_selection import BackendHealth
from gateway.ops.events import EventLog


def checked(address: str, state: HealthState, *, finished: bool = True) -> Any:
    candidate = SimpleNamespace(target=address, state=state, reason=None, detail="")
    return SimpleNamespace(candidate=lambda: candidate, is_checked=finished)


def running(state: HealthState, *targets: Any) -> Any:
    return SimpleNamespace(
        spec=SimpleNamespace(name="orders"),
        targets=targets,
        evaluate=lambda: BackendHealth(state, Reason.REFUSED, "cannot connect"),
    )


def observed(site: Any) -> tuple[Any, EventLog]:
    site.workers.units = []
    log = EventLog()
    return Transitions(site, log), log


def brief(log: EventLog) -> list[tuple[str, str | None, str]]:
    return [(each.subject.type, each.subject.target or each.subject.name, each.state) for each in log.latest()]


def test_a_backend_without_a_result_causes_no_event() -> None:
    site = Mock()
    _, log = observed(site)
    unfinished = checked("b:1", HealthState.UNKNOWN, finished=False)
    site.on_check_result(running(HealthState.UNKNOWN, unfinished))
    site.on_check_result(running(HealthState.DOWN, checked("a:1", HealthState.DOWN), unfinished))
    assert brief(log) == [("target", "a:1", "down")]
    site.on_check_result(running(HealthState.UP, checked("a:1", HealthState.DOWN), checked("b:1", HealthState.UP)))
    site.on_check_result(
        running(HealthState.DOWN, checked("a:1", HealthState.DOWN), checked("b:1", HealthState.DOWN))
    )
    assert brief(log)[1:] == [("target", "b:1", "down"), ("backend", "orders", "down")]
    assert log.latest()[-1].reason == "refused"


def test_attempts_to_open_a_tunnel_cause_no_event() -> None:
    site = Mock()
    uplink = Mock(reason=Reason.AUTH, detail="no", since=0.0, connects=0, failures={}, link=None, opened=None)
    site.uplinks.of_tunnel = lambda _: [uplink]
    site.workers.reports = lambda _: []
    transitions, log = observed(site)
    for state in (
        TunnelState.CONNECTING, TunnelState.BACKOFF, TunnelState.CONNECTING, TunnelState.BACKOFF, TunnelState.UP,
        TunnelState.STOPPED,
    ):  # fmt: skip
        uplink.state = state
        site.uplinks.on_change("bastion")
    assert [each[2] for each in brief(log)] == ["backoff", "up"]
    transitions.close()
    uplink.state = TunnelState.BACKOFF
    site.uplinks.on_change("bastion")
    assert len(log.latest()) == 2
