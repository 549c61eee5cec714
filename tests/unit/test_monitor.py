"""When a target is checked, and what is made of what it says."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from gateway.contracts import Endpoint, Link, Phases, ProbeResult, State
from gateway.errors import DialError, LinkLostError, ProbeError, ReachError, Reason
from gateway.health.monitor import Check, Schedule
from gateway.relay.direct import DirectLink

TARGET = Endpoint("db", 3306)


class Uplink:
    """An uplink that is up."""

    name = "bastion"

    def __init__(self) -> None:
        self.link: Link | None = DirectLink()
        self.settled = asyncio.Event()
        self.settled.set()
        self.watchers: list[Callable[[], None]] = []

    def describe(self) -> str:
        return "tunnel bastion is down"


class Scripted:
    """Answers as told; what comes last again and again."""

    def __init__(self, *script: ProbeResult | Exception) -> None:
        self.script = list(script)
        self.asked: list[float] = []

    async def probe(self, link: Link, target: Endpoint, phases: Phases) -> ProbeResult:
        del link, target, phases
        self.asked.append(time.monotonic())
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        return step


@asynccontextmanager
async def checking(backend: Any, path: Uplink, **schedule: float) -> AsyncIterator[Check]:
    plain: dict[str, Any] = {
        "interval": 60.0, "fast_interval": 0.1, "down_interval": 60.0, "timeout": 1.0, "rise": 1, "fall": 3,
        **schedule,
    }  # fmt: skip
    check = Check("orders", backend, TARGET, path, Schedule(**plain))
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


async def test_what_is_down_is_known_for_what_it_has_become() -> None:
    primary = ProbeResult(role="primary", read_only=False)
    demoted = ProbeResult(role="replica", read_only=True, unusable=(Reason.LAG, "replication is stopped"))
    async with checking(Scripted(primary, demoted), Uplink()) as check:
        assert (check.verdict.state, check.probe_result.role) == (State.UP, "primary")
        check.check_soon()
        await until(lambda: check.probe_result.role == "replica")
        assert check.verdict.state is State.UP  # one failure is not three
        await until(lambda: check.verdict.state is State.DOWN)
        assert (check.verdict.reason, check.verdict.detail) == (Reason.LAG, "replication is stopped")
        assert check.probe_result.read_only


async def test_one_connection_of_several_that_ends_says_nothing_of_the_target() -> None:
    backend = Scripted(ProbeResult(), LinkLostError(), ProbeResult())
    async with checking(backend, Uplink()) as check:
        check.check_soon()
        await until(lambda: len(backend.asked) == 3)
        assert (check.verdict.state, check.attempts, len(check.history.results())) == (State.UP, 2, 2)


async def test_a_path_through_which_nothing_comes_blocks_also_where_it_says_that_it_is_up() -> None:
    async with checking(Scripted(ProbeResult(), LinkLostError()), Uplink()) as check:
        check.check_soon()
        await until(lambda: check.verdict.state is State.BLOCKED)


async def test_failing_traffic_makes_no_more_checks_than_the_fast_interval_allows() -> None:
    backend = Scripted(ProbeResult())
    async with checking(backend, Uplink(), fast_interval=0.2) as check:
        await asyncio.sleep(0.25)
        began = time.monotonic()
        check.check_soon()
        await until(lambda: len(backend.asked) == 2)
        assert backend.asked[1] - began < 0.15  # the first at once
        while len(backend.asked) < 6 and time.monotonic() < began + 20:
            check.check_soon()
            await asyncio.sleep(0.002)
        pauses = [after - before for before, after in zip(backend.asked[1:], backend.asked[2:], strict=False)]
        assert len(pauses) == 4
        assert min(pauses) > 0.15


async def test_a_path_that_is_back_is_looked_at_at_once() -> None:
    backend, path = Scripted(ProbeResult()), Uplink()
    async with checking(backend, path, fast_interval=30.0) as check:
        link, path.link = path.link, None
        path.watchers[0]()
        await until(lambda: check.verdict.state is State.BLOCKED)
        path.link = link
        path.watchers[0]()
        await until(lambda: check.verdict.state is State.UP)


async def test_a_check_whose_own_login_fails_leaves_the_target_degraded() -> None:
    denied = ProbeError(Reason.AUTH, "access denied")
    async with checking(Scripted(ProbeResult(role="primary"), denied), Uplink(), fall=3) as check:
        succeeded = check.last_success
        check.check_soon()
        await until(lambda: check.attempts > 1)
        assert (check.verdict.state, check.verdict.reason) == (State.DEGRADED, Reason.AUTH)
        assert (check.failures[Reason.AUTH], check.last_success) == (1, succeeded)
        assert check.probe_result.role == "primary"  # as it was when the check could still ask


async def test_a_target_that_answers_again_comes_up_although_the_checks_login_fails() -> None:
    script = Scripted(DialError(Reason.REFUSED, "refused"), ProbeError(Reason.AUTH, "access denied"))
    async with checking(script, Uplink(), down_interval=0.01) as check:
        assert check.verdict.state is State.DOWN
        await until(lambda: check.verdict.state is State.DEGRADED)


async def test_a_password_that_cannot_be_read_says_nothing_for_the_target() -> None:
    async with checking(Scripted(ReachError(Reason.AUTH, "check.password_file: no such file")), Uplink()) as check:
        assert (check.verdict.state, check.verdict.reason) == (State.DOWN, Reason.AUTH)
