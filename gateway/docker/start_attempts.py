"""Counts the attempts to start each unavailable container, and decides when to retry or give up.

Does no I/O.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from gateway.backoff import Backoff, BackoffPolicy
from gateway.docker.plan import ActionKind, PlannedAction
from gateway.docker.unavailable_containers import UnavailableContainer
from gateway.metric_types import Tally

_POLICY = BackoffPolicy(first=1.0, cap=60.0, floor=0.5)
LIMIT = 20
"""The maximum number of attempts to start a container. 20 attempts take about ten minutes."""
_STOP_MARGIN = 30.0
"""If the engine does not respond to a restart, the gateway waits for the container's stop timeout plus this number of
seconds before the next attempt."""
STABLE = 600.0
"""If a container does not become unavailable again within this number of seconds, the gateway forgets the attempts to
start it."""


@dataclass
class _ContainerStartAttempts:
    """The attempts to start one unavailable container.

    Args:
        owner_start: See `UnavailableContainer.owner_start`.
    """

    owner_start: float = 0.0
    count: int = 0
    not_before: float = 0.0
    unavailable_at: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(_POLICY))


class StartAttempts:
    """Counts the attempts to start each unavailable container. Does no I/O.

    Times are in seconds. The times of attempts are monotonic. The times of signals and of owners' starts are from the
    engine's clock.
    """

    def __init__(self) -> None:
        self._attempts: dict[str, _ContainerStartAttempts] = {}
        """For each container ID: the attempts to start the container."""
        self._restarted: dict[str, float] = {}
        """Maps a container's ID to the value of `UnavailableContainer.owner_start` at the container's last successful
        restart."""
        self._signals: dict[str, dict[int, float]] = {}
        """For each container ID and signal number: when another client of the engine last sent the signal."""
        self._engine_time_offset = 0.0
        """The engine's time minus the monotonic time; 0 if the engine's time is not known."""
        self.revived: Tally = Tally()
        """For each cause of failed starts: the number of starts that succeeded after such a failure."""

    @property
    def given_up(self) -> frozenset[tuple[str, float]]:
        """The containers for which `LIMIT` is reached, each as its ID and its `UnavailableContainer.owner_start`."""
        return frozenset((key, each.owner_start) for key, each in self._attempts.items() if each.count >= LIMIT)

    @property
    def restarted(self) -> frozenset[tuple[str, float]]:
        """The restarted containers, each as its ID and its `UnavailableContainer.owner_start` at the restart."""
        return frozenset(self._restarted.items())

    @property
    def signals(self) -> dict[str, dict[int, float]]:
        """For each container ID and signal number: when another client of the engine last sent the signal.

        See `ContainerLastStart.may_be_stopped_by`.
        """
        return {key: dict(each) for key, each in self._signals.items()}

    def record_signal(self, container: str, number: int, at: float) -> None:
        """Record a signal that another client of the engine sent to a container, for example to stop it."""
        self._signals.setdefault(container, {})[number] = at

    def forget_signals(self, container: str) -> None:
        """Remove the recorded signals of a container. Call this when the container was started or removed."""
        self._signals.pop(container, None)

    def permits(self, action: PlannedAction, now: float) -> bool:
        """Return whether a planned action is still allowed.

        A restart is not allowed if another client of the engine has sent a signal that may stop the container.
        """
        start, signals = action.last_start, self._signals.get(action.container_id, {})
        engine_time = self._engine_time_offset and self._engine_time_offset + now
        if action.verb is not ActionKind.RESTART or start is None:
            return True
        return not start.may_be_stopped_by(signals, engine_time)

    def retain(self, containers: Collection[str]) -> None:
        """Remove the recorded restarts and signals of all containers except `containers`."""
        self._restarted = {key: each for key, each in self._restarted.items() if key in containers}
        self._signals = {key: each for key, each in self._signals.items() if key in containers}

    def observed(self, unavailable: Collection[UnavailableContainer], now: float, engine_time: float = 0.0) -> None:
        """Record which containers are unavailable.

        Forget the attempts to start a container that was last unavailable at least `STABLE` seconds ago.

        Args:
            unavailable: The unavailable containers.
            now: The monotonic time in seconds.
            engine_time: The engine's time, see `EngineSnapshot.engine_time`.
        """
        self._engine_time_offset = engine_time and engine_time - now
        for each in unavailable:
            if each.container_id in self._attempts:
                self._attempts[each.container_id].unavailable_at = now
        self._attempts = {key: each for key, each in self._attempts.items() if each.unavailable_at + STABLE > now}

    def attempted(self, action: PlannedAction, now: float, *, started: bool = False, answered: bool = True) -> None:
        """Record an attempt to start a container.

        If the owner of the container's network namespace has restarted since the last attempt, reset the number of
        attempts first.

        Args:
            action: The start or restart.
            now: The monotonic time in seconds.
            started: Whether the engine started the container.
            answered: Whether the engine responded. If False, delay the next attempt until the container's stop
                timeout has passed, because the engine may still be restarting the container.
        """
        found = self._attempts.get(action.container_id)
        if found is None or found.owner_start != action.owner_start:
            found = self._attempts[action.container_id] = _ContainerStartAttempts(action.owner_start)
        found.count += 1
        if started:
            found.backoff = Backoff(_POLICY)
        found.not_before = now + found.backoff.next()
        if not answered and action.verb is ActionKind.RESTART and action.last_start is not None:
            found.not_before = max(found.not_before, now + action.last_start.max_stop_time + _STOP_MARGIN)
        found.unavailable_at = now
        if started:
            self.revived[action.cause] += 1
        if started and action.verb is ActionKind.RESTART:
            self._restarted[action.container_id] = action.owner_start

    def not_before(self, container: str) -> float:
        """Return the monotonic time before which the gateway must not start a container again.

        Return 0 if there was no attempt.
        """
        return self._attempts[container].not_before if container in self._attempts else 0.0
