"""Defines the result of one check, and keeps the latest results of a target. Does no I/O."""

from collections import deque
from dataclasses import dataclass, field

from gateway.contracts.backend import ProbeResult
from gateway.contracts.states import HealthState
from gateway.errors import FailureReason

HISTORY = 100
"""Default `size` of a `CheckHistory`."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one probe of a target.

    Args:
        at: Time at the end of the probe, in seconds since the epoch.
        duration: Duration of the probe in seconds.
        state: The state of the target according to this probe alone, independent of `rise` and `fall`.
        reason: Why the state is not `up`; None if the state is `up` or `unknown`.
        detail: One line with details of the reason.
        phases: Duration of each phase of the probe, such as `tcp` or `auth`, in seconds.
        probe_result: What the `probe` method of the backend returned; None if it raised an error or timed out.
        remedy: How to fix this failure, in the imperative; empty to use the general remedy for `reason`.
    """

    at: float
    duration: float
    state: HealthState
    reason: FailureReason | None = None
    detail: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    probe_result: ProbeResult | None = None
    remedy: str = ""

    @property
    def passed(self) -> bool:
        """Whether clients can use the target, according to this probe."""
        return self.state.is_usable

    @property
    def succeeded(self) -> bool:
        """Whether the check succeeded. False if the server refused the check's login, even if clients can log in."""
        return self.passed and self.reason is not FailureReason.AUTH


class CheckHistory:
    """Keeps the latest check results of a target, and its latest failures.

    The failures have a separate limit, so that they stay available after many successful checks.

    Args:
        size: Maximum number of results. The same limit applies, separately, to the failures.
    """

    def __init__(self, size: int = HISTORY) -> None:
        self._latest: deque[CheckResult] = deque(maxlen=size)
        self._failures: deque[CheckResult] = deque(maxlen=size)

    def add(self, result: CheckResult) -> None:
        """Add a result, and discard the oldest one if the limit is reached."""
        self._latest.append(result)
        if not result.succeeded and result.state is not HealthState.BLOCKED:
            self._failures.append(result)

    @property
    def last(self) -> CheckResult | None:
        """The latest result; None if there is none."""
        return self._latest[-1] if self._latest else None

    def latest(self) -> list[CheckResult]:
        """Return the latest results, oldest first."""
        return list(self._latest)

    def failures(self) -> list[CheckResult]:
        """Return the most recent failures, oldest first. Some can be older than all results that `latest` returns.

        A result with the state `blocked` does not count as a failure.
        """
        return list(self._failures)

    def results(self) -> list[CheckResult]:
        """Return all stored results, oldest first, including older failures that `latest` does not return."""
        latest = set(map(id, self._latest))
        return [*(each for each in self._failures if id(each) not in latest), *self._latest]
