"""Runs one target's check for ever: through the link that traffic takes, with a deadline in all."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.contracts import Backend, Endpoint, Finding, Link, Phases, State
from gateway.errors import LinkLostError, ProbeError, ReachError, Reason
from gateway.health.verdict import History, Result, Verdict
from gateway.measure import Histogram, Summary, Tally
from gateway.text import one_line

log = logging.getLogger(__name__)

_JITTER = 0.05
_FIRST_SPREAD = 0.2
"""Seconds over which the first round of checks is spread."""

_FAILING_EVERY = 1.0
"""Seconds between two checks because of failing traffic, where the fast interval is longer."""
_LOGIN = (Reason.AUTH, Reason.UNAUTHENTICATED)
"""What concerns the check's own login: clients may be served all the same."""


@dataclass(frozen=True)
class Schedule:
    """When to check, in seconds; see `check:` in the configuration."""

    interval: float
    fast_interval: float
    down_interval: float
    timeout: float
    rise: int
    fall: int


class Path(Protocol):
    """What a check needs of a tunnel's uplink."""

    name: str
    link: Link | None
    settled: asyncio.Event
    watchers: list[Callable[[], None]]

    def describe(self) -> str:
        """The tunnel's state and its reason, in one line."""


async def probe_once(
    backend: Backend,
    link: Link,
    target: Endpoint,
    timeout: float,  # noqa: ASYNC109 - not the caller's own
    given_up: Callable[[], None] = lambda: None,
) -> Result:
    """One check of one target, within `timeout` seconds; calls `given_up` as `gateway.contracts.Phases` does.

    Raises:
        LinkLostError: The link died: this says nothing about the target.
    """
    phases = Phases(given_up=given_up)
    started = time.perf_counter()
    finding: Finding | None = None
    state, reason, detail = State.UP, None, ""
    try:
        async with asyncio.timeout(timeout):
            finding = await backend.probe(link, target, phases)
        if finding.unprobed:
            state, detail = State.UNKNOWN, finding.unprobed
        elif finding.unusable:
            state, (reason, detail) = State.DOWN, finding.unusable
        elif finding.degraded:
            state, (reason, detail) = State.DEGRADED, finding.degraded
    except TimeoutError:
        done = ", ".join(phases.seconds) or "nothing"
        state, reason, detail = (
            State.DOWN,
            Reason.TIMEOUT,
            f"no answer within {timeout:g} s (got as far as: {done})" + (f": {phases.hint}" if phases.hint else ""),
        )
    except LinkLostError:
        raise
    except ReachError as error:
        answers = isinstance(error, ProbeError) and error.reason in _LOGIN
        state, reason, detail = State.DEGRADED if answers else State.DOWN, error.reason, error.detail
    except OSError as error:
        state, reason, detail = State.DOWN, Reason.RESET, str(error)
    except Exception as error:
        # Whatever a library makes of a strange server's bytes: the target is at fault, and the check goes on.
        log.exception("a check failed in an unforeseen way", extra={"target": str(target)})
        state, reason, detail = State.DOWN, Reason.PROTOCOL, f"{type(error).__name__}: {error}"
    return Result(
        at=time.time(),
        duration=time.perf_counter() - started,
        state=state,
        reason=reason,
        detail=one_line(detail),
        phases=phases.seconds,
        finding=finding,
    )


class Check:
    """The check of one target of one backend; a `gateway.contracts.Unit`.

    Args:
        name: The backend's name.
        backend: Its kind, which knows how to probe.
        target: What to probe.
        path: The uplink it is reached through.
        schedule: When.
        changed: Called after each check.
        given_up: Called for each dial of a check that was given up and may still connect.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        target: Endpoint,
        path: Path,
        schedule: Schedule,
        changed: Callable[[], object] = lambda: None,
        given_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.target = target
        self.schedule = schedule
        self.verdict = Verdict(schedule.rise, schedule.fall)
        self.history = History()
        self.since = time.time()
        self.last: Result | None = None
        self.finding = Finding()
        self.last_success: float | None = None
        self.attempts = 0
        self.failures: Tally = Tally()
        self.duration = Histogram()
        self.phases: dict[str, Summary] = {}
        self.started = asyncio.Event()
        """Set once there is a first result, passed or not."""
        self.paused = False
        self._backend = backend
        self.path = path
        self._changed = changed
        self._given_up = given_up
        self._kick = asyncio.Event()
        self._at_once = False
        self._began = 0.0
        self._links_lost = 0
        """How many probes in a row lost their connection while the path had others."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Check until cancelled."""
        self.path.watchers.append(self._hurry)
        try:
            await asyncio.sleep(random.uniform(0, _FIRST_SPREAD))  # noqa: S311 - spread, not a secret
            while True:
                self._kick.clear()
                self._at_once = False
                changed = await self._turn()
                self.started.set()
                ready()
                await self._pause(changed=changed)
        finally:
            self.path.watchers.remove(self._hurry)

    def adopt(self, other: "Check") -> None:
        """Take over what another check of the same target learned: only the way of checking changed."""
        self.finding, self.last, self.last_success = other.finding, other.last, other.last_success
        self.history, self.since = other.history, other.since
        self.attempts, self.failures, self.duration, self.phases = (
            other.attempts, other.failures, other.duration, other.phases,
        )  # fmt: skip
        self.verdict = other.verdict
        self.verdict.rise, self.verdict.fall = self.schedule.rise, self.schedule.fall
        self.paused = other.paused
        if other.started.is_set():
            self.started.set()

    def kick(self) -> None:
        """Check soon: real traffic failed. However often it does, some time lies between two checks."""
        self._kick.set()

    def _hurry(self) -> None:
        """Look at once: the path changed, or an operator asks."""
        self._at_once = True
        self._kick.set()

    def doubt(self) -> None:
        """Check now: real traffic waits in vain, which counts as much as a check that failed."""
        self.verdict.doubt()
        self.kick()

    def pause(self) -> None:
        """Stop checking, and say so, until `resume`."""
        self.paused = True
        self._hurry()

    def resume(self) -> None:
        """Check again."""
        self.paused = False
        self._hurry()

    async def _turn(self) -> bool:
        """One check, or the reason why there is none; tells whether the state changed."""
        if self.paused:
            return self._note(self.verdict.override(State.PAUSED, None, "paused by an operator"))
        await self.path.settled.wait()
        link = self.path.link
        if link is None:
            return self._blocked()
        self._began = time.monotonic()
        try:
            timeout = self.schedule.timeout
            result = await probe_once(self._backend, link, self.target, timeout, self._given_up)
        except LinkLostError:  # nothing was learned about the target
            self._links_lost += 1
            if self.path.link is None or self._links_lost >= self.schedule.fall:
                return self._blocked()
            return False  # one of several connections ended: another is asked soon
        self._links_lost = 0
        if result.finding is not None and result.finding.unprobed:
            return self._note(self.verdict.add(result))
        self._count(result)
        return self._note(self.verdict.add(result))

    def _blocked(self) -> bool:
        return self._note(self.verdict.override(State.BLOCKED, Reason.TUNNEL, self.path.describe()))

    def _count(self, result: Result) -> None:
        self.attempts += 1
        self.last = result
        self.history.add(result)
        self.duration.observe(result.duration)
        for phase, seconds in result.phases.items():
            self.phases.setdefault(phase, Summary()).observe(seconds)
        if result.finding is not None:
            self.finding = result.finding
        if result.succeeded:
            self.last_success = result.at
        elif result.reason is not None:
            self.failures[result.reason] += 1

    def _note(self, changed: bool) -> bool:
        if changed:
            self.since = time.time()
            verdict = self.verdict
            extra = {"backend": self.name, "target": str(self.target), "state": str(verdict.state)}
            if verdict.reason:
                extra |= {"reason": str(verdict.reason), "detail": verdict.detail}
            # A blocked target is told by its tunnel already.
            quiet = verdict.state in (State.UP, State.UNKNOWN, State.PAUSED, State.BLOCKED)
            log.log(logging.INFO if quiet else logging.WARNING, "target %s", verdict.state, extra=extra)
        self._changed()
        return changed

    async def _pause(self, *, changed: bool) -> None:
        schedule = self.schedule
        if self.paused or self.path.link is None:
            await self._kick.wait()
            return
        if changed or self.verdict.state is State.BLOCKED or self.verdict.pending or self._links_lost:
            seconds = schedule.fast_interval
        elif self.verdict.state is State.DOWN:
            seconds = min(schedule.down_interval, schedule.interval)
        else:
            seconds = schedule.interval
        seconds *= random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - jitter, not a secret
        try:
            async with asyncio.timeout(seconds):
                await self._kick.wait()
        except TimeoutError:
            return
        # Kicked, perhaps by a burst of failures, which are no reason for more checks than this.
        soonest = self._began + min(schedule.fast_interval, _FAILING_EVERY)
        while not self._at_once and (left := soonest - time.monotonic()) > 0:
            self._kick.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._kick.wait(), left)
