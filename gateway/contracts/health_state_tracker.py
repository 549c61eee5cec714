"""Tracks the state of a backend, target or tunnel, and the time at which the state began. Does no I/O."""

from gateway.contracts.states import HealthState

_INTERRUPTIONS = (HealthState.BLOCKED, HealthState.PAUSED)
_FAULTS = (HealthState.DOWN, HealthState.DEGRADED)


class HealthStateTracker:
    """The state of a backend, target or tunnel, and the time at which the state began (`since`).

    In the states `blocked` and `paused`, the gateway runs no checks. Such an interruption does not end a fault
    (`down` or `degraded`). For example, if a target is down before and after the interruption, `since` is the
    beginning of the first `down`.

    Args:
        now: The current time, in seconds since the epoch.
    """

    def __init__(self, now: float) -> None:
        self.state: str = HealthState.UNKNOWN
        self.since = now
        self._interrupted: tuple[str, float] | None = None
        """The state before the current interruption, and the time at which this earlier state began.

        An interruption lasts while the state is `blocked` or `paused`. None if there is no current interruption, or
        if the earlier state was neither `down` nor `degraded`.
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
