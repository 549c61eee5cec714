"""Derives the state of a target, and whether it flaps, from its recent check results. Does no I/O."""

from collections import deque
from itertools import pairwise

from gateway.contracts.states import HealthState
from gateway.errors import FailureReason
from gateway.health.check_results import CheckResult

_FLAP_WINDOW = 21
_FLAP_START, _FLAP_STOP = 0.30, 0.20
"""A target starts to flap when the fraction of state changes among its recent results exceeds `_FLAP_START`. It stops
when the fraction is at most `_FLAP_STOP` (Nagios Core manual, "Detection and Handling of State Flapping")."""


_IMMEDIATE = (FailureReason.NO_SPACE, FailureReason.READ_ONLY)
"""Reasons for which one failed check changes the state to down, because the server itself reports the reason."""


class TargetStateEvaluator:
    """Derives the state of one target from its check results.

    Args:
        rise: Number of consecutive successes after which the state changes from down to up.
        fall: Number of consecutive failures after which the state changes from up to down. One failure is enough if
            its cause is a full or read-only file system.
    """

    def __init__(self, rise: int, fall: int) -> None:
        self.rise = rise
        self.fall = fall
        self.state = HealthState.UNKNOWN
        self.reason: FailureReason | None = None
        self.detail = ""
        self.remedy = ""
        self.flapping = False
        self._consecutive = 0
        self._decided = False
        self._recent: deque[bool] = deque(maxlen=_FLAP_WINDOW)

    def add(self, result: CheckResult) -> bool:
        """Update the state with the result of a check, and return whether the state has changed."""
        before = self.state
        if result.state is HealthState.UNKNOWN:
            self._set(result)
            return self.state is not before
        self._recent.append(result.passed)
        self._update_flapping()
        usable = self.state.is_usable
        if not self._decided or usable == result.passed:
            self._decided = True
            self._consecutive = 0
            self._set(result)
        else:
            self._consecutive += 1
            immediate = not result.passed and result.reason in _IMMEDIATE
            if immediate or self._consecutive >= (self.rise if result.passed else self.fall):
                self._consecutive = 0
                self._set(result)
        return self.state is not before

    def record_stall(self) -> None:
        """Count stalled client traffic as a failed check, at most once between two checks.

        Do nothing if the target is not usable, or if the last check failed.
        """
        if self.state.is_usable:
            self._consecutive = max(self._consecutive, 1)

    def override(self, state: HealthState, reason: FailureReason | None, detail: str) -> bool:
        """Set the state to blocked or paused, without a check. The next check result replaces this state immediately.

        Args:
            state: The new state.
            reason: The reason for the state; None if the state needs no reason.
            detail: One line with details of the reason.

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
        """Whether the last results contradict the state, but are not yet enough to change it (see `rise`, `fall`)."""
        return self._consecutive > 0

    def _set(self, result: CheckResult) -> None:
        self.state, self.reason = result.state, result.reason
        self.detail, self.remedy = result.detail, result.remedy

    def _update_flapping(self) -> None:
        results = list(self._recent)
        if len(results) < _FLAP_WINDOW:
            return
        changes = [before != after for before, after in pairwise(results)]
        # As in Nagios, the weights of the changes between results increase from 0.8 (oldest) to 1.2 (newest).
        weights = [0.8 + 0.4 * at / (len(changes) - 1) for at in range(len(changes))]
        share = sum(weight for weight, changed in zip(weights, changes, strict=True) if changed) / len(changes)
        self.flapping = share > (_FLAP_STOP if self.flapping else _FLAP_START)
