"""Checks one target over one path on a schedule. The checks use the same link as the clients."""

import asyncio
import contextlib
import logging
import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable

from gateway.contracts.backend import Backend
from gateway.contracts.config_types import HostPort
from gateway.contracts.login_limiter import LoginLimiter
from gateway.contracts.states import HealthState
from gateway.errors import FailureReason, LinkLostError
from gateway.health.check_results import CheckHistory, CheckResult
from gateway.health.check_schedule import CheckSchedule
from gateway.health.last_probe_result import LastProbeResult
from gateway.health.monitored_uplink import MonitoredUplink
from gateway.health.probe import probe_once
from gateway.health.target_state_evaluator import TargetStateEvaluator
from gateway.metric_types import Histogram, SummaryMetric, Tally

log = logging.getLogger(__name__)

_JITTER = 0.05
_FIRST_SPREAD = 0.2
"""Maximum random delay before the first check, in seconds. Without a delay, all checks would start together."""

_LATENCY_SAMPLES = 5
_MIN_INTERVAL = 1.0
"""Minimum seconds between the start of a probe and the start of an early probe (see `Check.check_soon`). If
`fast_interval` is shorter, `fast_interval` is the minimum."""


class Check:
    """Checks one target of one backend over one path; implements `SupervisedComponent`.

    Args:
        name: The backend's name.
        backend: The backend, which implements the probe.
        target: The target.
        uplink: The uplink whose link the check uses to connect to the target.
        schedule: The intervals and limits of the check.
        on_change: Called after each probe, and whenever the state changes for another reason.
        on_abandoned: Called for each dial that a probe abandons although the server might still accept the
            connection.
        record: The target's last probe result. All checks of the target share this object.
        tunnel: The name of the tunnel; None if the check uses no tunnel.
        logins: Limits how often the check logs in, because some servers block clients after too many aborted logins.
            None: no limit.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        target: HostPort,
        uplink: MonitoredUplink,
        schedule: CheckSchedule,
        on_change: Callable[[], object] = lambda: None,
        on_abandoned: Callable[[], None] = lambda: None,
        record: LastProbeResult | None = None,
        tunnel: str | None = None,
        logins: LoginLimiter | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.tunnel = tunnel
        self.schedule = schedule
        self.verdict = TargetStateEvaluator(schedule.rise, schedule.fall)
        self.history = CheckHistory()
        self.last: CheckResult | None = None
        self.record = record or LastProbeResult()
        self.last_success: float | None = None
        """Time of the last successful probe, in seconds since the epoch; None if no probe has succeeded."""
        self.succeeded_at: float | None = None
        """Monotonic time of the last successful probe; None if no probe has succeeded."""
        self.every = 1
        """Factor by which the check interval is multiplied. Larger than 1 if new clients do not use the path of this
        check."""
        self.latency: float | None = None
        """Median of `durations`, in seconds; None if no probe has succeeded."""
        self.durations: deque[float] = deque(maxlen=_LATENCY_SAMPLES)
        """Durations of the last successful probes, in seconds."""
        self.attempts = 0
        self.failures: Tally = Tally()
        self.duration = Histogram()
        self.phases: dict[str, SummaryMetric] = {}
        self.first_result = asyncio.Event()
        """Set when the first check has finished, successfully or not."""
        self.paused = False
        self._backend = backend
        self.uplink = uplink
        self._on_change = on_change
        self._on_abandoned = on_abandoned
        self._logins = logins
        self._wake = asyncio.Event()
        self._immediate = False
        """Whether the next probe may start immediately, even if `_MIN_INTERVAL` has not passed."""
        self._probe_started = 0.0
        self.urgent = False
        """Whether to check the target every `fast_interval` while the uplink has a link; see `set_urgent`."""
        self._blocked_at = -math.inf
        """Monotonic time, in seconds, of the last entry in the check history that reports the target as blocked."""
        self._lost_links = 0
        """Number of consecutive probes during which the link was lost."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Check the target on schedule until cancelled. Call `ready` after each check."""
        self.uplink.watchers.append(self._check_now)
        try:
            await asyncio.sleep(random.uniform(0, _FIRST_SPREAD))  # noqa: S311 - random delay, not a secret
            while True:
                self._wake.clear()
                self._immediate = False
                changed = await self._check_once()
                self.first_result.set()
                ready()
                await self._wait_for_next(changed=changed)
        finally:
            self.uplink.watchers.remove(self._check_now)

    @property
    def failing(self) -> bool:
        """Whether the last probe did not pass, or a client has waited too long for a response since that probe.

        Also true after a successful probe, if the target was down and needs more successful probes to be up again
        (see `rise`).
        """
        return self.verdict.pending or (self.last is not None and not self.last.passed)

    def inherit(self, other: "Check") -> None:
        """Copy the state and counters of `other`, the check that this check replaces on a reload."""
        self.last, self.last_success, self.succeeded_at = other.last, other.last_success, other.succeeded_at
        self.latency, self.durations = other.latency, other.durations
        self.history = other.history
        self.attempts, self.failures, self.duration, self.phases = (
            other.attempts, other.failures, other.duration, other.phases,
        )  # fmt: skip
        self.verdict = other.verdict
        self.verdict.rise, self.verdict.fall = self.schedule.rise, self.schedule.fall
        self.paused = other.paused
        if other.first_result.is_set():
            self.first_result.set()

    def check_soon(self) -> None:
        """Schedule an early probe, for example after client traffic has failed. See also `_MIN_INTERVAL`."""
        self._wake.set()

    def set_urgent(self, *, urgent: bool) -> None:
        """Set whether to check the target every `fast_interval`.

        The caller sets `urgent` while the role of a database might change soon.
        """
        if urgent and not self.urgent:
            self.check_soon()
        self.urgent = urgent

    def _check_now(self) -> None:
        """Start a check immediately, because the uplink's state has changed, or checks were paused or resumed."""
        self._immediate = True
        self._wake.set()

    def report_stall(self) -> None:
        """Count a failed probe, because clients wait too long for responses. Schedule an early probe."""
        self.verdict.record_stall()
        self.check_soon()

    def pause(self) -> None:
        """Stop checking until `resume`, and set the state to paused."""
        self.paused = True
        self._check_now()

    def resume(self) -> None:
        """Resume checking after `pause`."""
        self.paused = False
        self._check_now()

    async def _check_once(self) -> bool:
        """Check the target once, and return whether its state has changed.

        If checks are paused, only set the state to paused. If the tunnel is down, or if the link was lost during
        `fall` consecutive probes, only set the state to blocked.
        """
        if self.paused:
            return self._publish(self.verdict.override(HealthState.PAUSED, None, "paused by an operator"))
        await self.uplink.settled.wait()
        link = self.uplink.link
        if link is None:
            return self._block()
        try:
            self._probe_started = time.monotonic()
            timeout = self.schedule.timeout
            result = await probe_once(self._backend, link, self.target, timeout, self._on_abandoned, self._logins)
        except LinkLostError:  # the tunnel failed, so the state of the target is not known
            self._lost_links += 1
            if self.uplink.link is None or self._lost_links >= self.schedule.fall:
                return self._block()
            return False  # keep the state, and check again soon, over another connection of the tunnel
        self._lost_links = 0
        if result.probe_result is not None and result.probe_result.unprobed:
            return self._publish(self.verdict.add(result))
        self._count(result)
        return self._publish(self.verdict.add(result))

    def _block(self) -> bool:
        """Set the state to blocked, because the tunnel is down. Return whether the state has changed.

        Also add an entry to the check history when the state changes, and then once per check interval.
        """
        detail = self.uplink.describe()
        changed = self.verdict.override(HealthState.BLOCKED, FailureReason.TUNNEL, detail)
        now = time.monotonic()
        if changed or now - self._blocked_at >= self._interval * (1 - _JITTER):
            self._blocked_at = now
            self.history.add(CheckResult(time.time(), 0.0, HealthState.BLOCKED, FailureReason.TUNNEL, detail))
        return self._publish(changed)

    @property
    def _interval(self) -> float:
        return self.schedule.interval * self.every

    def _count(self, result: CheckResult) -> None:
        self.attempts += 1
        self.last = result
        now = time.monotonic()
        self.record.add(result, self._probe_started, now)
        self.history.add(result)
        self.duration.observe(result.duration)
        for phase, seconds in result.phases.items():
            self.phases.setdefault(phase, SummaryMetric()).observe(seconds)
        if result.succeeded:
            self.last_success, self.succeeded_at = result.at, now
            self.durations.append(result.duration)
            self.latency = statistics.median(self.durations)
        elif result.reason is not None:
            self.failures[result.reason] += 1

    def _publish(self, changed: bool) -> bool:
        """Call `on_change`, and log the state if `changed` is true. Return `changed`."""
        if changed:
            verdict = self.verdict
            extra = {"backend": self.name, "target": str(self.target), "state": str(verdict.state)}
            if self.tunnel is not None:
                extra["tunnel"] = self.tunnel
            if verdict.reason:
                extra |= {"reason": str(verdict.reason), "detail": verdict.detail}
            # Log no warning for a blocked target, because the uplink has already logged that the tunnel is down.
            quiet = verdict.state in (HealthState.UP, HealthState.UNKNOWN, HealthState.PAUSED, HealthState.BLOCKED)
            log.log(logging.INFO if quiet else logging.WARNING, "target %s", verdict.state, extra=extra)
        self._on_change()
        return changed

    async def _wait_for_next(self, *, changed: bool) -> None:
        schedule = self.schedule
        if self.paused:
            await self._wake.wait()
            return
        unsettled = self.verdict.state is HealthState.BLOCKED or self.verdict.pending or self._lost_links > 0
        if self.uplink.link is None:
            seconds = self._interval
        elif changed or unsettled or self.urgent:
            seconds = schedule.fast_interval
        elif self.verdict.state is HealthState.DOWN:
            seconds = min(schedule.down_interval, schedule.interval) * self.every
        else:
            seconds = self._interval
        seconds *= random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - jitter, not a secret
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        # Failed client connections can wake this check too early, so wait until the minimum interval has passed.
        earliest = self._probe_started + min(schedule.fast_interval, _MIN_INTERVAL)
        while not self._immediate and (left := earliest - time.monotonic()) > 0:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()
