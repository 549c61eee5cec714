"""Tracks the state of a backend, target or tunnel, and the time at which the state began. Does no I/O."""

from gateway.contracts.states import HealthState

_INTERRUPTIONS = (HealthState.BLOCKED, HealthState.PAUSED)
_FAULTS = (HealthState.DOWN, HealthState.DEGRADED)


class HealthStateTracker:
    """The state of a backend, target or tunnel, and the time at which the state began (`since`).

    The states `blocked` and `paused` interrupt the checks. If a target is `down` before and after an interruption,
    `since` is the time at which the target went down, not the end of the interruption. The same applies to
    `degraded`.

    Args:
        now: The current time, in seconds since the epoch.
    """

    def __init__(self, now: float) -> None:
        self.state: str = HealthState.UNKNOWN
        self.since = now
        self._interrupted: tuple[str, float] | None = None
        """The fault (`down` or `degraded`) before the current interruption, and the time at which the fault began.

        None without an interruption, or if there was no fault before it.
        """

    def enter(self, state: str, now: float) -> bool:
        """Set the state, and return whether it has changed.

        Args:
            state: The new state.
            now: The current time, in seconds since the epoch.
        """
        if state == self.state:
            return False
        previous, self.state = (self.state, self.since), state
        self.since = now
        if state in _INTERRUPTIONS:
            if previous[0] not in _INTERRUPTIONS:
                self._interrupted = previous if previous[0] in _FAULTS else None
            return True
        if self._interrupted is not None and self._interrupted[0] == state:
            self.since = self._interrupted[1]
        self._interrupted = None
        return True
