"""Tests of what the runtime keeps when a reload changes a backend."""

import asyncio
import time
from unittest.mock import Mock

import pytest

from gateway.app.aborted_handshake_budgets import AbortedHandshakeBudgets
from gateway.app.check_manager import CheckManager
from gateway.app.running_backend import RunningBackend
from gateway.app.running_components import RunningComponents
from gateway.app.status_view_builder import backend_view
from gateway.app.uplink_manager import UplinkManager
from gateway.audit_log.recorder import AuditLogRecorder
from gateway.config import Config, ConfigSources, load
from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.states import DatabaseRole, HealthState
from gateway.errors import FailureReason
from gateway.forwarding import aborted_handshake_budget
from gateway.health.check_results import CheckResult
from gateway.ops.events import EventLog
from gateway.ops.status_views import TargetView
from tests.support.clock import set_clock_back

OLD, NEW = HostPort("old", 6379), HostPort("new", 6379)


def config(backend: str) -> Config:
    tunnels = ("a=ssh://u@a", "b=ssh://u@b")
    return load(ConfigSources(tunnels=tunnels, backends=(f"shop={backend}",), environment={}))


def started(first: Config) -> RunningComponents:
    """Return a runtime whose components do not run."""
    components, budgets = Mock(), AbortedHandshakeBudgets()
    components.retiring_forwards.return_value = []
    components.retiring_uplinks.return_value = []
    uplinks, checks = UplinkManager(components), CheckManager(components, budgets)
    runtime = RunningComponents(components, uplinks, first, Mock(), checks, budgets, AuditLogRecorder())
    runtime.apply(first, {})
    return runtime


def probed(
    running: RunningBackend, target: HostPort, role: DatabaseRole | None = None, login_started_at: float | None = None
) -> None:
    """Add the result of a probe of `target` over its first path."""
    check = next(each for each in running.checks if each.target == target)
    check._probe_started = time.monotonic()
    probe_result = ProbeResult(role, role == "replica", login_started_at=login_started_at)
    result = CheckResult(time.time(), 0.01, HealthState.UP, probe_result=probe_result)
    check._count(result)
    check.verdict.add(result)
    running.on_check_result()


def promoted(running: RunningBackend, target: HostPort) -> None:
    """Add the results of two probes, between which `target` was promoted."""
    probed(running, target, "replica")
    probed(running, target, "primary")


REDIS = "redis://old,new?prefer=primary&check.password_file=/p&via="


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("a", "b", id="another tunnel"),
        pytest.param("a", "a,b", id="another tunnel in addition"),
    ],
)
async def test_an_old_primary_stays_superseded_after_a_reload(before: str, after: str) -> None:
    runtime = started(config(REDIS + before))
    probed(runtime.backends["shop"], OLD, "primary")
    promoted(runtime.backends["shop"], NEW)
    assert runtime.backends["shop"].ordered_targets() == [NEW]

    runtime.apply(config(REDIS + after), {})
    running = runtime.backends["shop"]
    assert running.ordered_targets() == [NEW]
    probed(running, OLD, "primary")
    probed(running, NEW, "primary")
    assert running.ordered_targets() == [NEW]
    assert running.evaluate()[:2] == (HealthState.DEGRADED, FailureReason.ROLE)


async def test_a_backend_of_another_kind_or_with_other_targets_starts_without_promotions() -> None:
    runtime = started(config(REDIS + "a"))
    promoted(runtime.backends["shop"], NEW)
    runtime.apply(config("redis://old,other?prefer=primary&check.password_file=/p&via=a"), {})
    assert {target for _, target in runtime.backends["shop"].records} == {OLD, HostPort("other", 6379)}
    runtime.apply(config(REDIS + "a"), {})
    assert runtime.backends["shop"].candidates()[1].promoted == 0
    promoted(runtime.backends["shop"], NEW)
    runtime.apply(config(REDIS.replace("redis", "postgres").replace(",new", ":6379,new:6379") + "b"), {})
    candidates = runtime.backends["shop"].candidates()
    assert [(each.target, each.role, each.promoted) for each in candidates] == [(OLD, None, 0), (NEW, None, 0)]


async def test_results_through_another_tunnel_are_not_kept() -> None:
    runtime = started(config(REDIS + "a"))
    probed(runtime.backends["shop"], OLD, "primary")
    runtime.apply(config(REDIS + "b"), {})
    check = runtime.backends["shop"].checks[0]
    assert (check.last, check.verdict.state) == (None, HealthState.UNKNOWN)


async def test_a_login_of_a_check_resets_the_budget_after_the_clock_was_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aborted_handshake_budget, "_ABANDONED_DIAL_DELAY", 0.0)
    runtime = started(config("mysql://db?via=a"))
    running, target = runtime.backends["shop"], HostPort("db", 3306)
    runtime._budgets.record_abandoned_dial("a", target)
    budget = running.budget(target, "a")
    assert budget is not None
    assert budget.aborted == 1
    set_clock_back(monkeypatch)
    await asyncio.sleep(0.001)
    probed(running, target, login_started_at=time.monotonic())
    assert budget.aborted == 0


async def test_a_login_of_a_check_resets_only_earlier_aborts_over_the_same_path() -> None:
    runtime = started(config("mysql://db?via=a,b"))
    running, target = runtime.backends["shop"], HostPort("db", 3306)
    first, second = (running.budget(target, name) for name in ("a", "b"))
    assert first is not None
    assert second is not None
    now = time.monotonic()
    for budget in (first, second):
        budget.record_aborted(now - 20)
    probed(running, target, login_started_at=now - 40)
    assert (first.aborted, second.aborted) == (2, 2)  # the sum over both paths
    probed(running, target, login_started_at=now)
    assert first.aborted == 0
    assert second.aborted > 0


async def test_the_view_of_a_target_is_the_same_until_the_target_changes() -> None:
    running = started(config(REDIS + "a")).backends["shop"]

    def views() -> list[TargetView]:
        return backend_view(running, EventLog(), knows_containers=False).targets

    first = views()
    assert [one is other for one, other in zip(first, views(), strict=True)] == [True, True]
    probed(running, OLD, "primary")
    old, new = views()
    assert (old.attempts, old.role, old.duration.count, len(old.history)) == (1, "primary", 1, 1)
    assert new is first[1]
    running.checks[0]._block()
    assert [(each.state, len(each.history)) for each in views()] == [("blocked", 2), ("unknown", 0)]


@pytest.mark.parametrize("second", ["redis://old?check.interval=7s", "redis://old,new", "redis://new?via=b"])
def test_a_backend_stays_paused_after_a_reload(second: str) -> None:
    runtime = started(config("redis://old?via=a"))
    for check in runtime.backends["shop"].checks:
        check.pause()
    runtime.apply(config(second), {})
    assert [check.paused for check in runtime.backends["shop"].checks] == [True] * len(
        runtime.config.backends["shop"].targets
    )
