"""Derives a target's state (up, down, flapping) from its check results, by `rise` and `fall`. Does no I/O."""

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

from gateway.contracts.backend import ProbeResult
from gateway.contracts.states import HealthState
from gateway.errors import Reason

HISTORY = 100
_FLAP_WINDOW = 21
_FLAP_START, _FLAP_STOP = 0.30, 0.20
"""Shares of state changes at which flapping starts and stops (Nagios Core manual, "Detection and Handling of State
Flapping")."""


_IMMEDIATE = (Reason.NO_SPACE, Reason.READ_ONLY)
"""Reasons for which a single check takes a target down. The server itself reports them, so they are certain."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Args:
        at: Time at the end of the check, in seconds since the epoch.
        duration: Duration of the check in seconds.
        state: The state that follows from this check alone.
        reason: Why the state is not `up`.
        detail: One line of text.
        phases: Duration of each phase in seconds.
        probe_result: The probe's result; None if the target did not answer.
        remedy: What to do about exactly this failure, as in `UnusableTargetError`.
    """

    at: float
    duration: float
    state: HealthState
    reason: Reason | None = None
    detail: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    probe_result: ProbeResult | None = None
    remedy: str = ""

    @property
    def passed(self) -> bool:
        """Whether clients can use the target."""
        return self.state in (HealthState.UP, HealthState.DEGRADED)

    @property
    def succeeded(self) -> bool:
        """Whether the check succeeded. With a wrong password, it fails although clients can use the target."""
        return self.passed and self.reason is not Reason.AUTH


class CheckHistory:
    """The latest check results of a target, and the latest failures, which are kept longer.

    Args:
        size: Maximum number of latest results, and of failures.
    """

    def __init__(self, size: int = HISTORY) -> None:
        self._latest: deque[CheckResult] = deque(maxlen=size)
        self._failures: deque[CheckResult] = deque(maxlen=size)

    def add(self, result: CheckResult) -> None:
        """Add a result."""
        self._latest.append(result)
        if not result.succeeded and result.state is not HealthState.BLOCKED:
            self._failures.append(result)

    def latest(self) -> list[CheckResult]:
        """Return the latest results, oldest first."""
        return list(self._latest)

    def failures(self) -> list[CheckResult]:
        """Return the latest failures, oldest first, including those that are older than the latest results.

        A check that did not run because its target was blocked is not a failure.
        """
        return list(self._failures)

    def results(self) -> list[CheckResult]:
        """Return the failures that are older than the latest results, followed by the latest results."""
        latest = set(map(id, self._latest))
        return [*(each for each in self._failures if id(each) not in latest), *self._latest]


class Verdict:
    """Derives the state of one target from its check results.

    Args:
        rise: Consecutive successes that take the target up.
        fall: Consecutive failures that take it down. A full or read-only file system takes it down immediately.
    """

    def __init__(self, rise: int, fall: int) -> None:
        self.rise = rise
        self.fall = fall
        self.state = HealthState.UNKNOWN
        self.reason: Reason | None = None
        self.detail = ""
        self.remedy = ""
        self.flapping = False
        self._consecutive = 0
        self._decided = False
        self._recent: deque[bool] = deque(maxlen=_FLAP_WINDOW)

    def add(self, result: CheckResult) -> bool:
        """Update the state with a result; return whether the state has changed."""
        before = self.state
        if result.state is HealthState.UNKNOWN:
            self._set(result)
            return self.state is not before
        self._recent.append(result.passed)
        self._update_flapping()
        usable = self.state in (HealthState.UP, HealthState.DEGRADED)
        if not self._decided or usable == result.passed:
            self._decided = True
            self._consecutive = 0
            self._set(result)
        else:
            self._consecutive += 1
            if self._consecutive >= (self.rise if result.passed else self.fall) or result.reason in _IMMEDIATE:
                self._consecutive = 0
                self._set(result)
        return self.state is not before

    def record_stall(self) -> None:
        """Count stalled traffic as one consecutive failure, regardless of how many clients stall."""
        if self.state in (HealthState.UP, HealthState.DEGRADED):
            self._consecutive = max(self._consecutive, 1)

    def override(self, state: HealthState, reason: Reason | None, detail: str) -> bool:
        """Set a state that does not come from a check: blocked or paused. The next result replaces it immediately.

        Args:
            state: The new state.
            reason: The reason for the state; None if the state needs no reason.
            detail: One line of text.

        Returns:
            Whether the state changed.
        """
        changed = self.state is not state
        self.state, self.reason, self.detail, self.remedy = state, reason, detail, ""
        self._decided = False
        self._consecutive = 0
        return changed

    @property
    def pending(self) -> bool:
        """Whether the last result contradicts the state, so that the next check should follow soon."""
        return self._consecutive > 0

    def _set(self, result: CheckResult) -> None:
        self.state, self.reason = result.state, result.reason
        self.detail, self.remedy = result.detail, result.remedy

    def _update_flapping(self) -> None:
        results = list(self._recent)
        if len(results) < _FLAP_WINDOW:
            return
        changes = [before != after for before, after in pairwise(results)]
        # The weights of the changes increase from 0.8 (oldest) to 1.2 (newest), as in Nagios.
        weights = [0.8 + 0.4 * at / (len(changes) - 1) for at in range(len(changes))]
        share = sum(weight for weight, changed in zip(weights, changes, strict=True) if changed) / len(changes)
        self.flapping = share > (_FLAP_STOP if self.flapping else _FLAP_START)
