"""Tests of a target with several paths: its state, the rate of its checks, and the choice for new clients."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

import pytest

from gateway.app.monitored_target import MonitoredTarget
from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.states import HealthState
from gateway.errors import FailureReason
from gateway.forwarding.target_path import LinkProvider, TargetIdentity
from gateway.health.check import Check
from gateway.health.check_results import CheckResult
from gateway.health.check_schedule import CheckSchedule
from gateway.health.last_probe_result import LastProbeResult
from gateway.health.path_selection import PathSelector
from gateway.relay.direct_link import DirectLink
from tests.support.clock import set_clock_back

TARGET = HostPort("db", 3306)
SCHEDULE = CheckSchedule(interval=10, fast_interval=1, down_interval=5, timeout=3, rise=1, fall=1)


class Uplink:
    def __init__(self, name: str) -> None:
        self.name = name
        self.link: Link | None = DirectLink()
        self.settled = asyncio.Event()
        self.watchers: list[Callable[[], None]] = []

    def describe(self) -> str:
        return "tunnel outer is quarantined"


class Backend:
    """A backend that is not probed. The tests add the results instead."""

    async def probe(self, link: object, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        raise NotImplementedError


class Paths:
    """A target behind the tunnels `a` and `b`."""

    def __init__(self) -> None:
        self.uplinks = [Uplink("a"), Uplink("b")]
        record = LastProbeResult()
        checks = [
            Check("orders", Backend(), TARGET, uplink, SCHEDULE, record=record, tunnel=uplink.name)
            for uplink in self.uplinks
        ]
        paths = TargetIdentity(TARGET, cast("tuple[LinkProvider, ...]", tuple(self.uplinks))).paths()
        self.target = MonitoredTarget(checks, PathSelector(["a", "b"], "order"), paths)

    def close(self, at: int) -> None:
        self.uplinks[at].link = None
        self.target.checks[at].verdict.override(HealthState.BLOCKED, FailureReason.TUNNEL, "closed")

    def probed(self, at: int, state: HealthState, **result: object) -> None:
        check = self.target.checks[at]
        found = CheckResult(time.time(), 0.01, state, probe_result=ProbeResult(**result))  # type: ignore[arg-type]
        check.verdict.add(found)
        check._count(found)


async def test_a_target_is_blocked_only_if_every_path_is_closed_and_names_a_common_cause_once() -> None:
    paths = Paths()
    paths.probed(0, HealthState.UP)
    paths.probed(1, HealthState.UP)
    paths.close(0)
    assert (paths.target.candidate().state, paths.target.choice.current) == (HealthState.UP, 1)
    paths.close(1)
    blocked = paths.target.candidate()
    assert (blocked.state, blocked.reason, blocked.detail) == (
        HealthState.BLOCKED, FailureReason.TUNNEL, "tunnel outer is quarantined",
    )  # fmt: skip


async def test_a_target_is_not_blocked_while_a_tunnel_waits_for_its_first_check() -> None:
    paths = Paths()
    paths.close(0)
    paths.probed(1, HealthState.UP)
    assert paths.target.choose() == 1
    paths.uplinks[0].link = DirectLink()
    assert (paths.target.candidate().state, paths.target.choice.current) == (HealthState.UP, 1)


async def test_a_target_is_down_only_if_it_fails_over_every_path() -> None:
    paths = Paths()
    paths.probed(0, HealthState.DOWN)
    paths.probed(1, HealthState.UP)
    assert paths.target.candidate().state is HealthState.UP
    paths.probed(1, HealthState.DOWN)
    assert paths.target.candidate().state is HealthState.DOWN


async def test_paths_that_clients_do_not_use_are_checked_less_often() -> None:
    paths = Paths()
    paths.target.choose()
    assert [check.every for check in paths.target.checks] == [1, 2]
    paths.close(0)
    paths.target.choose()
    assert [check.every for check in paths.target.checks] == [2, 1]


async def test_a_client_that_notices_a_closed_path_first_starts_a_check_of_the_other_path(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "gateway.app.monitored_target")
    paths = Paths()
    paths.probed(0, HealthState.UP)
    paths.probed(1, HealthState.UP)
    paths.target.choose()
    paths.close(0)
    assert [cast(Uplink, each.uplink).name for each in paths.target.paths()] == ["b", "a"]
    assert [(record.message, record.__dict__["tunnel"]) for record in caplog.records] == [
        ("new clients use another path", "b")
    ]
    assert paths.target.checks[1]._wake.is_set()
    assert [check.every for check in paths.target.checks] == [2, 1]


async def test_the_role_comes_from_the_last_answer_over_any_path() -> None:
    paths = Paths()
    paths.probed(0, HealthState.UP, role="primary")
    paths.probed(1, HealthState.UP, role="replica")
    assert (paths.target.candidate().role, paths.target.choice.current) == ("replica", 0)


async def test_a_target_fails_only_if_the_path_of_new_clients_fails() -> None:
    paths = Paths()
    paths.probed(0, HealthState.UP)
    paths.probed(1, HealthState.DOWN)
    assert not paths.target.candidate().failing
    paths.probed(0, HealthState.DOWN)
    assert paths.target.candidate().failing


async def test_a_promotion_is_recorded_once_even_if_a_path_observes_it_late() -> None:
    paths = Paths()
    paths.probed(1, HealthState.UP, role="replica")
    paths.probed(0, HealthState.UP, role="replica")
    paths.probed(0, HealthState.UP, role="primary")
    promoted = paths.target.candidate().promoted
    assert promoted > 0
    paths.probed(1, HealthState.UP, role="primary")
    assert paths.target.candidate().promoted == promoted
    paths.probed(0, HealthState.UP, role="replica")
    paths.probed(0, HealthState.UP, role="primary")
    assert paths.target.candidate().promoted > promoted


async def test_clients_avoid_a_path_until_its_next_successful_check(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths()
    for at in (0, 1):
        paths.probed(at, HealthState.UP)
    assert paths.target.choose() == 0
    paths.target.report_failed_dial("a")
    assert paths.target.choose() == 1
    assert [path.dial_failed for path in paths.target.health()] == [True, False]
    set_clock_back(monkeypatch)
    paths.probed(0, HealthState.UP)
    assert [path.dial_failed for path in paths.target.health()] == [False, False]
    assert paths.target.choose() == 1


async def test_a_state_keeps_its_beginning_when_clients_move_to_another_path(monkeypatch: pytest.MonkeyPatch) -> None:
    paths, now = Paths(), time.time() + 10
    monkeypatch.setattr(time, "time", lambda: now)
    paths.probed(0, HealthState.UP)
    paths.target.candidate()
    now += 10
    paths.probed(1, HealthState.UP)
    paths.close(0)
    assert (paths.target.candidate().state, paths.target.choice.current) == (HealthState.UP, 1)
    assert paths.target.state_tracker.since == now - 10
    now += 10
    paths.close(1)
    paths.target.candidate()
    assert paths.target.state_tracker.since == now
    reloaded = Paths()
    reloaded.close(0)
    reloaded.close(1)
    reloaded.target.inherit(paths.target)
    now += 10
    assert (reloaded.target.candidate().state, reloaded.target.state_tracker.since) == (HealthState.BLOCKED, now - 10)
