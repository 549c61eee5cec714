"""From single results to a state: rise and fall, flapping, history. Pure; time comes from outside."""

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

from gateway.contracts import Finding, State
from gateway.errors import Reason

HISTORY = 100
_FLAP_WINDOW = 21
_FLAP_START, _FLAP_STOP = 0.30, 0.20
"""Nagios Core manual, "Detection and Handling of State Flapping"."""


_CERTAIN = (Reason.NO_SPACE, Reason.READ_ONLY)
"""What a server says of its storage: it has answered, and would say the same again."""


@dataclass(frozen=True)
class Result:
    """One check's outcome.

    Args:
        at: When it ended, in seconds since the epoch.
        duration: Seconds it took.
        state: What this result alone says.
        reason: Why not `up`.
        detail: One line for a person.
        phases: Seconds by phase.
        finding: What was learned, when the target answered.
    """

    at: float
    duration: float
    state: State
    reason: Reason | None = None
    detail: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    finding: Finding | None = None

    @property
    def passed(self) -> bool:
        """Whether clients can use the target."""
        return self.state in (State.UP, State.DEGRADED)

    @property
    def succeeded(self) -> bool:
        """Whether the check worked too: its own login may fail where those of clients do not."""
        return self.passed and self.reason is not Reason.AUTH


class History:
    """The last results; when it is full, successes make room before failures do."""

    def __init__(self, size: int = HISTORY) -> None:
        self._size = size
        self._results: list[Result] = []

    def add(self, result: Result) -> None:
        """Add the newest result."""
        if len(self._results) >= self._size:
            oldest_success = next((at for at, old in enumerate(self._results) if old.succeeded), 0)
            del self._results[oldest_success]
        self._results.append(result)

    def results(self) -> list[Result]:
        """Oldest first."""
        return self._results.copy()


class Verdict:
    """The state of one target.

    Args:
        rise: Successes in a row that bring it up.
        fall: Failures in a row that take it down; a full or read-only export is down at once.
    """

    def __init__(self, rise: int, fall: int) -> None:
        self.rise = rise
        self.fall = fall
        self.state = State.UNKNOWN
        self.reason: Reason | None = None
        self.detail = ""
        self.flapping = False
        self._in_row = 0
        self._decided = False
        self._recent: deque[bool] = deque(maxlen=_FLAP_WINDOW)

    def add(self, result: Result) -> bool:
        """Take one result into account; tells whether the state changed."""
        before = self.state
        if result.state is State.UNKNOWN:
            self._set(result)
            return self.state is not before
        self._recent.append(result.passed)
        self._judge_flapping()
        stands = self.state in (State.UP, State.DEGRADED)
        if not self._decided or stands == result.passed:
            self._decided = True
            self._in_row = 0
            self._set(result)
        else:
            self._in_row += 1
            if self._in_row >= (self.rise if result.passed else self.fall) or result.reason in _CERTAIN:
                self._in_row = 0
                self._set(result)
        return self.state is not before

    def doubt(self) -> None:
        """Real traffic waits in vain: that counts as one failure in a row, however many clients it is."""
        if self.state in (State.UP, State.DEGRADED):
            self._in_row = max(self._in_row, 1)

    def override(self, state: State, reason: Reason | None, detail: str) -> bool:
        """Blocked or paused: not judged by results; the first one after it decides again."""
        changed = self.state is not state
        self.state, self.reason, self.detail = state, reason, detail
        self._decided = False
        self._in_row = 0
        return changed

    @property
    def pending(self) -> bool:
        """Whether the last result disagreed with the state, so that the next one should come soon."""
        return self._in_row > 0

    def _set(self, result: Result) -> None:
        self.state, self.reason, self.detail = result.state, result.reason, result.detail

    def _judge_flapping(self) -> None:
        results = list(self._recent)
        if len(results) < _FLAP_WINDOW:
            return
        changes = [a != b for a, b in pairwise(results)]
        # Later changes weigh more: from 0.8 to 1.2.
        weights = [0.8 + 0.4 * at / (len(changes) - 1) for at in range(len(changes))]
        share = sum(weight for weight, changed in zip(weights, changes, strict=True) if changed) / len(changes)
        self.flapping = share > (_FLAP_STOP if self.flapping else _FLAP_START)
