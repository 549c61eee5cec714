"""Defines events (state changes of backends, targets, tunnels and the service), and keeps the latest in memory."""

import json
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import Any, NamedTuple

from gateway.contracts.health_state_tracker import HealthStateTracker
from gateway.contracts.states import TunnelState
from gateway.ops.status_json import iso
from gateway.text_sanitizer import one_line

MAX_EVENTS = 1000
"""Maximum number of events of backends and targets, in memory and in the events file."""
MAX_CAUSES = 200
"""Maximum number of events of tunnels and the service. Events of backends and targets have a separate limit
(`MAX_EVENTS`). Otherwise, the many backend events caused by one failed tunnel would replace the tunnel's event."""


class SubjectType(StrEnum):
    """The type of an event's subject. `START`, `DRAIN` and `RELOAD` are for events of the service itself."""

    START = "start"
    BACKEND = "backend"
    TARGET = "target"
    TUNNEL = "tunnel"
    DRAIN = "drain"
    RELOAD = "reload"


class EventSubject(NamedTuple):
    """The backend, target or tunnel whose state has changed, or the service itself.

    Args:
        type: The type of the subject.
        name: The name of the backend or tunnel; None for the service itself.
        target: The target, for `SubjectType.TARGET`; otherwise None.
    """

    type: SubjectType
    name: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class StateChange:
    """One event: a change of the state of a backend, target, tunnel or the service.

    Args:
        id: A number that increases with each event, even across restarts.
        at: When the state changed, in seconds since the epoch.
        subject: The backend, target or tunnel whose state changed, or the service.
        state: The new state.
        previous: The previous state; None if it is not known.
        reason: The reason for the state; None if the state has no reason.
        detail: More information about the change, in one line.
    """

    id: int
    at: float
    subject: EventSubject
    state: str
    previous: str | None = None
    reason: str | None = None
    detail: str = ""
    line: str = field(init=False, compare=False, repr=False)
    """The event as one line of JSON."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", json.dumps(self.body))  # `self.line = …` fails in a frozen dataclass

    @property
    def body(self) -> dict[str, Any]:
        """The event as a JSON object."""
        return {
            "id": self.id,
            "time": iso(self.at),
            "type": self.subject.type,
            "name": self.subject.name,
            "target": self.subject.target,
            "state": self.state,
            "previous": self.previous,
            "reason": self.reason,
            "detail": self.detail,
        }


_KEPT = (SubjectType.BACKEND, SubjectType.TARGET, SubjectType.TUNNEL)
"""Types of subjects (`EventSubject`) whose states the log restores from the events file after a restart."""
_MANY = (SubjectType.BACKEND, SubjectType.TARGET)
"""Types of subjects (`EventSubject`) to which the large limit `MAX_EVENTS` applies, because one failed tunnel can
change the states of hundreds of backends and targets."""
_HEALTHY = "up"
"""The state of a backend, target or tunnel that works. If the first state of a subject (`EventSubject`) is `up`, the
log adds no event, so that a start of the service does not add an event for every subject."""


class EventLog:
    """The latest events in memory, oldest first.

    The log keeps the latest `limit` events of backends and targets, and the latest `MAX_CAUSES` other events. It also
    keeps up to `MAX_EVENTS` older events that report ongoing failures.

    Args:
        limit: Maximum number of events of backends and targets.
        clock: Returns the time in seconds since the epoch.
    """

    def __init__(self, limit: int = MAX_EVENTS, clock: Callable[[], float] = time.time) -> None:
        self.watchers: list[Callable[[], None]] = []
        """Callables that the log calls after each event."""
        self._clock = clock
        self._effects: deque[StateChange] = deque(maxlen=limit)
        self._causes: deque[StateChange] = deque(maxlen=MAX_CAUSES)
        self._replaced = 0
        """Events up to this ID can be missing, because newer events replaced them; 0 if no event is missing."""
        self._states: dict[EventSubject, str] = {}
        self._trackers: dict[EventSubject, HealthStateTracker] = {}
        """The latest state of each backend, target and tunnel, and when the state began, in this run of the service
        or a previous one."""
        self._last: dict[EventSubject, StateChange] = {}
        """The latest event of each backend, target and tunnel."""
        self._ongoing: dict[EventSubject, StateChange] = {}
        """Events of ongoing failures that are no longer in `_effects` or `_causes`, because newer events replaced
        them."""
        self._merged: list[StateChange] | None = None
        """The cached result of `latest`; None if an event was added since the last call."""
        self._last_id = 0

    @property
    def last_id(self) -> int:
        """The ID of the latest event; 0 if there is none."""
        return self._last_id

    def load(self, events: Iterable[StateChange]) -> None:
        """Add saved events of previous runs of the service.

        If a backend, target or tunnel has no event in this run, and its current state differs from the saved state,
        add an event for this change.

        Args:
            events: The events, oldest first. Events that the log already contains are skipped.
        """
        own = self.latest()
        current, subjects = self._states, {event.subject for event in own}
        ids = {event.id for event in own}
        loaded = [event for event in events if event.id not in ids]
        previous = {event.subject: event.state for event in loaded if event.subject.type in _KEPT}
        merged = sorted([*own, *loaded], key=lambda event: event.id)
        self._effects.clear()
        self._causes.clear()
        self._trackers.clear()
        self._last.clear()
        self._ongoing.clear()
        for event in merged:
            self._add(event)
        for full in (each for each in (self._effects, self._causes) if len(each) == each.maxlen):
            # The list is full, so the previous run may have discarded events older than `full[0]`.
            self._replaced = max(self._replaced, full[0].id)
        self._last_id = merged[-1].id if merged else 0
        self._states = {**current, **{subject: previous[subject] for subject in previous.keys() - subjects}}
        for subject, state in current.items():
            self.observe(subject, state)

    def observe(self, subject: EventSubject, state: str, reason: str | None = None, detail: str = "") -> None:
        """Add an event if the current state of `subject` differs from its previous state.

        If `subject` has no previous state and its current state is `up`, add no event.

        Args:
            subject: The backend, target or tunnel, or the service.
            state: The current state of `subject`.
            reason: The reason for the state; None if the state has no reason.
            detail: More information about the change. It is shortened to one line.
        """
        previous = self._states.get(subject)
        if previous is None and state == _HEALTHY:
            self._states[subject] = state
        elif state != previous:
            self.record(subject, state, reason, detail)

    def record(self, subject: EventSubject, state: str, reason: str | None = None, detail: str = "") -> None:
        """Add an event, even if the state has not changed. The arguments are those of `observe`."""
        now = self._clock()
        # Derive the ID from the time, so that IDs increase even if the events file of the previous run is lost.
        number = max(self._last_id + 1, int(now * 1000))
        previous = self._states.get(subject)
        self._last_id = number
        self._states[subject] = state
        self._add(StateChange(number, now, subject, state, previous, reason, one_line(detail)))
        for watcher in self.watchers.copy():
            watcher()

    def forget(self, is_configured: Callable[[EventSubject], bool]) -> None:
        """Forget the states of removed backends, targets and tunnels, because later ones can have the same names.

        The events of the removed ones remain, except events that the log kept only because a failure was ongoing.

        Args:
            is_configured: Returns whether the configuration contains a backend, target or tunnel.
        """
        states: tuple[dict[EventSubject, Any], ...] = (self._states, self._trackers, self._last, self._ongoing)
        for each in states:
            for subject in [subject for subject in each if subject.type in _KEPT and not is_configured(subject)]:
                del each[subject]
        self._merged = None

    def began(self, subject: EventSubject, state: str, otherwise: float) -> float:
        """Return when the failure of a backend, target or tunnel began, in seconds since the epoch.

        The failure may have begun in a previous run of the service.

        Args:
            subject: The backend, target or tunnel.
            state: The current state of `subject`.
            otherwise: When the state began in this run of the service. This time is returned if `subject` is up, or
                if the log does not contain the failure.
        """
        tracker = self._trackers.get(subject)
        if state == _HEALTHY or tracker is None or tracker.state != _timed(subject, state):
            return otherwise
        return tracker.since

    def since(self, event_id: int) -> list[StateChange] | None:
        """Return the events after the event with the ID `event_id`.

        Return None if the log does not contain this ID, or no longer contains all later events.
        """
        events = self.latest()
        at = bisect_right(events, event_id, key=lambda event: event.id)
        if at == 0 or events[at - 1].id != event_id or event_id < self._replaced:
            return [] if event_id == self._last_id else None
        return events[at:]

    def latest(self) -> list[StateChange]:
        """Return all events in the log, oldest first. The caller must not change the list."""
        if self._merged is None:
            parts = (*self._ongoing.values(), *self._effects, *self._causes)
            self._merged = sorted(parts, key=attrgetter("id"))
        return self._merged

    def _add(self, event: StateChange) -> None:
        self._merged = None
        subject = event.subject
        if subject.type in _KEPT:
            tracker = self._trackers.setdefault(subject, HealthStateTracker(event.at))
            tracker.enter(_timed(subject, event.state), event.at)
            self._last[subject] = event
            self._ongoing.pop(subject, None)
        events = self._effects if subject.type in _MANY else self._causes
        if len(events) == events.maxlen:
            self._replace(events[0])
        events.append(event)

    def _replace(self, oldest: StateChange) -> None:
        """Keep `oldest` in `_ongoing` if it reports an ongoing failure, because a new event will replace `oldest`."""
        self._replaced = max(self._replaced, oldest.id)
        if self._last.get(oldest.subject) is oldest and oldest.state != _HEALTHY:
            self._ongoing[oldest.subject] = oldest
            if len(self._ongoing) > MAX_EVENTS:
                self._ongoing.pop(next(iter(self._ongoing)))


def _timed(subject: EventSubject, state: str) -> str:
    """Return the state that the event log uses to determine when a failure began.

    For a tunnel, return `TunnelState.availability`, because attempts to reconnect change the tunnel's state, but do
    not end the failure.
    """
    if subject.type is SubjectType.TUNNEL and state in list(TunnelState):
        return TunnelState(state).availability
    return state
