"""Tests of the schedule of checks, and of the states that the results of checks cause."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link, SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.states import HealthState
from gateway.errors import DialError, FailureReason, LinkLostError, TargetPathError, UnusableTargetError
from gateway.health.check import Check
from gateway.health.check_results import CheckResult
from gateway.health.check_schedule import CheckSchedule
from gateway.health.last_probe_result import LastProbeResult
from gateway.relay.direct_link import DirectLink

TARGET = HostPort("db", 3306)


class Uplink:
    """A substitute for an uplink that is always up."""

    name = "bastion"

    def __init__(self) -> None:
        self.link: Link | None = DirectLink()
        self.settled = asyncio.Event()
        self.settled.set()
        self.watchers: list[Callable[[], None]] = []

    def describe(self) -> str:
        return "tunnel bastion is down"


class Scripted:
    """A backend whose probe returns or raises each step of a script, and then repeats the last step."""

    def __init__(self, *script: ProbeResult | Exception) -> None:
        self.script = list(script)
        self.probed_at: list[float] = []

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        del link, target, phases
        self.probed_at.append(time.monotonic())
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        return step


@asynccontextmanager
async def checking(backend: Any, uplink: Uplink, **schedule: float) -> AsyncIterator[Check]:
    plain: dict[str, Any] = {
        "interval": 60.0, "fast_interval": 0.1, "down_interval": 60.0, "timeout": 1.0, "rise": 1, "fall": 3,
        **schedule,
    }  # fmt: skip
    check = Check("orders", backend, TARGET, uplink, CheckSchedule(**plain))
    running = asyncio.ensure_future(check.run(lambda: None))
    try:
        await asyncio.wait_for(check.first_result.wait(), 5)
        yield check
    finally:
        running.cancel()
        await asyncio.wait({running})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_promotion_is_recorded_and_kept_while_the_target_is_down() -> None:
    primary, replica = ProbeResult(role="primary"), ProbeResult(role="replica")
    unknown = ProbeResult(unusable=(FailureReason.ROLE, "demoted"))
    refused = DialError(FailureReason.REFUSED, "")
    started = time.monotonic()
    script = Scripted(primary, refused, primary, replica, unknown, primary, refused, primary)
    promoted = []
    async with checking(script, Uplink(), fast_interval=0.01, interval=0.01, down_interval=0.01, fall=1) as check:
        while check.attempts < 8:
            promoted.append((check.attempts, check.record.promoted))
            await asyncio.sleep(0.001)
        assert {at for number, at in promoted if number < 6} == {0.0}
        assert check.record.promoted > started
        assert check.record.probed > check.record.promoted


async def test_an_urgent_check_does_not_wait_for_its_interval() -> None:
    backend = Scripted(ProbeResult(role="replica"))
    async with checking(backend, Uplink()) as check:
        check.set_urgent(urgent=True)
        await until(lambda: len(backend.probed_at) >= 3)
        check.set_urgent(urgent=False)
        check.pause()
        check.set_urgent(urgent=True)
        await asyncio.sleep(0.05)
        probed = len(backend.probed_at)
        await asyncio.sleep(0.3)
        assert len(backend.probed_at) == probed


async def test_a_failed_check_updates_the_role() -> None:
    primary = ProbeResult(role="primary", read_only=False)
    demoted = ProbeResult(role="replica", read_only=True, unusable=(FailureReason.LAG, "replication is stopped"))
    async with checking(Scripted(primary, demoted), Uplink()) as check:
        assert (check.verdict.state, check.record.probe_result.role) == (HealthState.UP, "primary")
        check.check_soon()
        await until(lambda: check.record.probe_result.role == "replica")
        assert check.verdict.state is HealthState.UP  # `fall` is 3, so three probes must fail.
        await until(lambda: check.verdict.state is HealthState.DOWN)
        assert (check.verdict.reason, check.verdict.detail) == (FailureReason.LAG, "replication is stopped")
        assert check.record.probe_result.read_only


async def test_one_lost_connection_does_not_change_the_state() -> None:
    backend = Scripted(ProbeResult(), LinkLostError(), ProbeResult())
    async with checking(backend, Uplink()) as check:
        check.check_soon()
        await until(lambda: len(backend.probed_at) == 3)
        assert (check.verdict.state, check.attempts, len(check.history.results())) == (HealthState.UP, 2, 2)


async def test_repeatedly_lost_connections_block_the_target_although_the_tunnel_is_up() -> None:
    async with checking(Scripted(ProbeResult(), LinkLostError()), Uplink()) as check:
        check.check_soon()
        await until(lambda: check.verdict.state is HealthState.BLOCKED)


async def test_the_history_shows_that_a_target_was_blocked_once_per_interval() -> None:
    backend, uplink = Scripted(ProbeResult()), Uplink()
    async with checking(backend, uplink, interval=0.2) as check:
        link, uplink.link = uplink.link, None
        began = time.monotonic()
        while len(check.history.latest()) < 4:
            assert time.monotonic() < began + 20
            uplink.watchers[0]()  # Simulates a retry of the tunnel, which adds no result to the history.
            await asyncio.sleep(0.01)
        assert time.monotonic() - began > 0.35
        uplink.link = link
        # The check detects the new link without a notification from the uplink.
        await until(lambda: check.verdict.state is HealthState.UP)
        states = [each.state for each in check.history.latest()]
        assert states[:4] == [HealthState.UP, *[HealthState.BLOCKED] * 3]
        assert states[-1] is HealthState.UP
        assert check.history.failures() == []
        assert (check.failures, check.attempts) == ({}, states.count(HealthState.UP))


async def test_failing_traffic_does_not_shorten_the_fast_interval() -> None:
    backend = Scripted(ProbeResult())
    async with checking(backend, Uplink(), fast_interval=0.2) as check:
        await until(lambda: len(backend.probed_at) == 2)  # the first result changes the state
        await asyncio.sleep(0.25)
        began = time.monotonic()
        check.check_soon()
        await until(lambda: len(backend.probed_at) == 3)  # the next probe would be due only after a minute
        while len(backend.probed_at) < 7 and time.monotonic() < began + 20:
            check.check_soon()
            await asyncio.sleep(0.002)
        pauses = [after - before for before, after in zip(backend.probed_at[2:], backend.probed_at[3:], strict=False)]
        assert len(pauses) == 4
        assert min(pauses) > 0.15


async def test_checks_immediately_when_the_tunnel_is_up_again() -> None:
    backend, uplink = Scripted(ProbeResult()), Uplink()
    async with checking(backend, uplink, fast_interval=30.0) as check:
        link, uplink.link = uplink.link, None
        uplink.watchers[0]()
        await until(lambda: check.verdict.state is HealthState.BLOCKED)
        uplink.link = link
        uplink.watchers[0]()
        await until(lambda: check.verdict.state is HealthState.UP)


async def test_a_failed_login_of_the_check_makes_the_target_degraded() -> None:
    denied = UnusableTargetError(FailureReason.AUTH, "access denied")
    async with checking(Scripted(ProbeResult(role="primary"), denied), Uplink(), fall=3) as check:
        succeeded = check.last_success
        check.check_soon()
        await until(lambda: check.attempts > 1)
        assert (check.verdict.state, check.verdict.reason) == (HealthState.DEGRADED, FailureReason.AUTH)
        assert (check.failures[FailureReason.AUTH], check.last_success) == (1, succeeded)
        assert check.record.probe_result.role == "primary"  # The last successful probe found this role.


async def test_a_target_recovers_although_the_login_of_the_check_fails() -> None:
    script = Scripted(
        DialError(FailureReason.REFUSED, "refused"), UnusableTargetError(FailureReason.AUTH, "access denied")
    )
    async with checking(script, Uplink(), down_interval=0.01) as check:
        assert check.verdict.state is HealthState.DOWN
        await until(lambda: check.verdict.state is HealthState.DEGRADED)


async def test_an_unreadable_password_file_makes_the_target_down() -> None:
    async with checking(
        Scripted(TargetPathError(FailureReason.AUTH, "check.password_file: no such file")), Uplink()
    ) as check:
        assert (check.verdict.state, check.verdict.reason) == (HealthState.DOWN, FailureReason.AUTH)


async def test_a_path_that_hangs_does_not_delay_the_checks_of_other_paths() -> None:
    class Hanging:
        async def probe(self, link: Any, target: HostPort, phases: PhaseTimer) -> ProbeResult:
            del link, target, phases
            await asyncio.Event().wait()
            raise NotImplementedError

    record, schedule = LastProbeResult(), CheckSchedule(60.0, 0.1, 60.0, 60.0, 1, 3)
    backends = (Hanging(), Hanging(), Scripted(ProbeResult()))
    checks = [Check("orders", backend, TARGET, Uplink(), schedule, record=record) for backend in backends]
    running = [asyncio.ensure_future(check.run(lambda: None)) for check in checks]
    try:
        await until(lambda: all(check._probe_started for check in checks))
        checks[2].check_soon()
        await until(lambda: checks[2].attempts == 2)
        assert [check.attempts for check in checks] == [0, 0, 2]
    finally:
        for each in running:
            each.cancel()
        await asyncio.wait(running)


def test_an_answer_that_is_older_than_the_recorded_one_is_discarded() -> None:
    def answer(**found: Any) -> CheckResult:
        return CheckResult(0.0, 0.1, HealthState.UP, probe_result=ProbeResult(**found))

    record = LastProbeResult()
    record.add(answer(role="replica"), 2.0, 2.1)
    record.add(answer(role="primary"), 1.0, 4.0)
    assert (record.probe_result.role, record.probed, record.promoted) == ("replica", 2.0, 0.0)
    record.add(CheckResult(0.0, 0.1, HealthState.DOWN, FailureReason.REFUSED), 6.0, 6.1)
    # The next result is from a probe that started at 5.0, after the probe of the last recorded response (2.0).
    record.add(answer(role="primary"), 5.0, 7.0)
    assert (record.probe_result.role, record.probed, record.promoted) == ("primary", 5.0, 7.0)
    record.add(CheckResult(0.0, 0.1, HealthState.DEGRADED, FailureReason.AUTH), 8.0, 8.1)
    assert (record.probe_result.role, record.probed) == ("primary", 8.0)
