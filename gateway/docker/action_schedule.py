"""Determines when planned actions are due. Does no I/O."""

import math
from collections.abc import Iterable

from gateway.docker.container_starter import ContainerStarter
from gateway.docker.failed_actions import FailedActions
from gateway.docker.plan import REVIVALS, ActionKind, PlannedAction
from gateway.docker.snapshot import RUNNING, EngineSnapshot
from gateway.docker.start_attempts import StartAttempts


class ActionSchedule:
    """Determines when planned actions are due. Does no I/O; times are monotonic, in seconds.

    Args:
        starter: Starts containers. An action is not due while `starter` starts its container.
        failures: The failed actions, which are retried with backoff.
        attempts: The attempts to start containers, which are repeated with backoff.
    """

    def __init__(self, starter: ContainerStarter, failures: FailedActions, attempts: StartAttempts) -> None:
        self._starter = starter
        self._failures = failures
        self._attempts = attempts
        self.signals_since = -math.inf
        """A monotonic time. If another client of the engine sent a signal to a container after this time, the gateway
        has recorded the signal."""

    def not_before(self, action: PlannedAction) -> float:
        """Return the earliest time of the next attempt; 0 if nothing delays it, `inf` while an attempt runs."""
        if self._starter.is_starting(action):
            return math.inf
        again = self._attempts.not_before(action.container_id) if action.verb in REVIVALS else 0.0
        if action.verb is ActionKind.RESTART and action.last_start is not None:
            # The gateway may not know about a stop that another client of the engine requested before
            # `signals_since`. Therefore, wait for the maximum duration of a stop.
            again = max(again, self.signals_since + action.last_start.max_stop_time)
        return max(again, self._failures.not_before(action))

    def waits(self, actions: Iterable[PlannedAction], now: float) -> list[float]:
        """Return, for each action that waits for its next attempt, the seconds until this attempt."""
        return [at - now for each in actions if 0 < (at := self.not_before(each)) < math.inf]

    def completed_starts(self, requested: Iterable[str], observed: EngineSnapshot, now: float) -> set[str]:
        """Return the IDs in `requested` whose containers run or were removed.

        Omit a container if its start is in progress, or if its next attempt must still wait.

        Args:
            requested: IDs, from the ownership record, of the containers that the gateway asked the engine to start.
            observed: The snapshot.
            now: The monotonic time, in seconds.
        """
        states = {each.id: each.state for each in observed.containers}
        return {
            key
            for key in set(requested) - self._starter.requested
            if states.get(key, "running") in RUNNING and self._attempts.not_before(key) <= now
        }
