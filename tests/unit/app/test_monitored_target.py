"""Tests of a target with several ways: its state, the rate of its checks, and the choice for new clients."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

import pytest

from gateway.app.monitored_target import MonitoredTarget
from gateway.contracts.backend import ProbeResult
from gateway.contracts.link import Link
from gateway.contracts.phases import Phases
from gateway.contracts.states import HealthState
from gateway.contracts.values import Endpoint
from gateway.errors import Reason
from gateway.forwarding.routed_target import LinkSource, TargetIdentity
from gateway.health.check import Check, CheckSchedule
from gateway.health.check_results import CheckResult
from gateway.health.target_record import TargetRecord
from gateway.health.tunnel_selection import TunnelSelector
from gateway.relay.direct_link import DirectLink
from tests.support.clock import set_clock_back

TARGET = Endpoint("db", 3306)
SCHEDULE = CheckSchedule(interval=10, fast_interval=1, down_interval=5, timeout=3, rise=1, fall=1)


class Uplink:
    """A substitute for an uplink."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.link: Link | None = DirectLink()
        self.settled = asyncio.Event()
        self.watchers: list[Callable[[], None]] = []

    def describe(self) -> str:
        return "tunnel outer is quarantined"


class Backend:
    """A backend that is never probed, because the tests add the results."""

    async def probe(self, link: object, target: Endpoint, phases: Phases) -> ProbeResult:
        raise NotImplementedError


class Ways:
    """A target behind the tunnels `a` and `b`."""

    def __init__(self) -> None:
        self.uplinks = [Uplink("a"), Uplink("b")]
        record = TargetRecord()
        checks = [
            Check("orders", Backend(), TARGET, uplink, SCHEDULE, record=record, tunnel=uplink.name)
            for uplink in self.uplinks
        ]
        routes = TargetIdentity(TARGET, cast("tuple[LinkSource, ...]", tuple(self.uplinks))).routes()
        self.target = MonitoredTarget(checks, TunnelSelector(["a", "b"], "order"), routes)

    def close(self, at: int) -> None:
        self.uplinks[at].link = None
        self.target.checks[at].verdict.override(HealthState.BLOCKED, Reason.TUNNEL, "closed")

    def probed(self, at: int, state: HealthState, **result: object) -> None:
        check = self.target.checks[at]
        found = CheckResult(time.time(), 0.01, state, probe_result=ProbeResult(**result))  # type: ignore[arg-type]
        check.verdict.add(found)
        check._count(found)


async def test_a_target_is_blocked_only_if_every_way_is_closed_and_names_a_common_cause_once() -> None:
    ways = Ways()
    ways.probed(0, HealthState.UP)
    ways.probed(1, HealthState.UP)
    ways.close(0)
    assert (ways.target.candidate().state, ways.target.choice.current) == (HealthState.UP, 1)
    ways.close(1)
    blocked = ways.target.candidate()
    assert (blocked.state, blocked.reason, blocked.detail) == (
        HealthState.BLOCKED, Reason.TUNNEL, "tunnel outer is quarantined",
    )  # fmt: skip


async def test_a_target_is_not_blocked_while_a_tunnel_waits_for_its_first_check() -> None:
    ways = Ways()
    ways.close(0)
    ways.probed(1, HealthState.UP)
    assert ways.target.choose() == 1
    ways.uplinks[0].link = DirectLink()
    assert (ways.target.candidate().state, ways.target.choice.current) == (HealthState.UP, 1)


async def test_a_target_is_down_only_if_it_fails_through_every_way() -> None:
    ways = Ways()
    ways.probed(0, HealthState.DOWN)
    ways.probed(1, HealthState.UP)
    assert ways.target.candidate().state is HealthState.UP
    ways.probed(1, HealthState.DOWN)
    assert ways.target.candidate().state is HealthState.DOWN


async def test_ways_that_clients_do_not_use_are_checked_less_often() -> None:
    ways = Ways()
    ways.target.choose()
    assert [check.every for check in ways.target.checks] == [1, 2]
    ways.close(0)
    ways.target.choose()
    assert [check.every for check in ways.target.checks] == [2, 1]


async def test_a_client_that_notices_a_closed_way_first_starts_a_check_of_the_other_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "gateway.app.monitored_target")
    ways = Ways()
    ways.probed(0, HealthState.UP)
    ways.probed(1, HealthState.UP)
    ways.target.choose()
    ways.close(0)
    assert [cast(Uplink, each.uplink).name for each in ways.target.routes()] == ["b", "a"]
    assert [(record.message, record.__dict__["tunnel"]) for record in caplog.records] == [
        ("new clients use another way", "b")
    ]
    assert ways.target.checks[1]._wake.is_set()
    assert [check.every for check in ways.target.checks] == [2, 1]


async def test_the_role_comes_from_the_last_answer_through_any_way() -> None:
    ways = Ways()
    ways.probed(0, HealthState.UP, role="primary")
    ways.probed(1, HealthState.UP, role="replica")
    assert (ways.target.candidate().role, ways.target.choice.current) == ("replica", 0)


async def test_a_target_fails_only_if_the_way_of_new_clients_fails() -> None:
    ways = Ways()
    ways.probed(0, HealthState.UP)
    ways.probed(1, HealthState.DOWN)
    assert not ways.target.candidate().failing
    ways.probed(0, HealthState.DOWN)
    assert ways.target.candidate().failing


async def test_a_promotion_is_recorded_once_even_if_a_way_observes_it_late() -> None:
    ways = Ways()
    ways.probed(1, HealthState.UP, role="replica")
    ways.probed(0, HealthState.UP, role="replica")
    ways.probed(0, HealthState.UP, role="primary")
    promoted = ways.target.candidate().promoted
    assert promoted > 0
    ways.probed(1, HealthState.UP, role="primary")
    assert ways.target.candidate().promoted == promoted
    ways.probed(0, HealthState.UP, role="replica")
    ways.probed(0, HealthState.UP, role="primary")
    assert ways.target.candidate().promoted > promoted


async def test_clients_avoid_a_way_until_its_next_successful_check(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Ways()
    for at in (0, 1):
        ways.probed(at, HealthState.UP)
    assert ways.target.choose() == 0
    ways.target.report_failed_dial("a")
    assert ways.target.choose() == 1
    assert [way.dial_failed for way in ways.target.health()] == [True, False]
    set_clock_back(monkeypatch)
    ways.probed(0, HealthState.UP)
    assert [way.dial_failed for way in ways.target.health()] == [False, False]
    assert ways.target.choose() == 1


async def test_a_state_keeps_its_beginning_when_clients_move_to_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    ways, now = Ways(), time.time() + 10
    monkeypatch.setattr(time, "time", lambda: now)
    ways.probed(0, HealthState.UP)
    ways.target.candidate()
    now += 10
    ways.probed(1, HealthState.UP)
    ways.close(0)
    assert (ways.target.candidate().state, ways.target.choice.current) == (HealthState.UP, 1)
    assert ways.target.clock.since == now - 10
    now += 10
    ways.close(1)
    ways.target.candidate()
    assert ways.target.clock.since == now
    reloaded = Ways()
    reloaded.close(0)
    reloaded.close(1)
    reloaded.target.inherit(ways.target)
    now += 10
    assert (reloaded.target.candidate().state, reloaded.target.clock.since) == (HealthState.BLOCKED, now - 10)
