"""Keeps the latest state changes of backends, targets, tunnels and the service in memory. Does no I/O."""

import json
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import Any, NamedTuple

from gateway.contracts.states import TunnelState
from gateway.contracts.timed_state import TimedState
from gateway.ops.status_json import iso
from gateway.text_sanitizer import one_line

MAX_EVENTS = 1000
"""Number of events of backends and targets that are kept, in memory and in the file."""
MAX_CAUSES = 200
"""Number of events of tunnels and the service that are kept. Many events of backends do not replace their cause."""


class EventType(StrEnum):
    """What an event is about: a backend, target or tunnel, or a start, drain or reload of the service."""

    START = "start"
    BACKEND = "backend"
    TARGET = "target"
    TUNNEL = "tunnel"
    DRAIN = "drain"
    RELOAD = "reload"


class EventSubject(NamedTuple):
    """The backend, target or tunnel whose state has changed, or the service itself.

    Args:
        type: The type of the part.
        name: The name of the backend or tunnel; None for the service itself.
        target: The target, for `EventType.TARGET`.
    """

    type: EventType
    name: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Transition:
    """One event: a change of the state of a backend, target, tunnel or the service.

    Args:
        id: A number that increases with each event, also after a restart.
        at: When the state changed, in seconds since the epoch.
        subject: What changed.
        state: The new state.
        previous: The state before; None if it is not known.
        reason: The reason for the state; None if it needs no reason.
        detail: One line of text.
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
        object.__setattr__(self, "line", json.dumps(self.body))  # bypasses `frozen` during construction

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


_KEPT = (EventType.BACKEND, EventType.TARGET, EventType.TUNNEL)
"""Types of parts whose states continue after a restart."""
_MANY = (EventType.BACKEND, EventType.TARGET)
"""Types of parts of which a tunnel can have hundreds."""
_HEALTHY = "up"
"""The first state of a part causes no event if it is this state. A start without failures thus causes no events."""


class EventLog:
    """The latest events in memory, oldest first.

    If the log is full, a new event of a backend or target replaces the oldest of these, and another event the oldest
    of the others. The log keeps the events that began failures that still last.

    Args:
        limit: Maximum number of events of backends and targets.
        clock: Returns the time in seconds since the epoch.
    """

    def __init__(self, limit: int = MAX_EVENTS, clock: Callable[[], float] = time.time) -> None:
        self.watchers: list[Callable[[], None]] = []
        """Callbacks. The log calls them after each event."""
        self._clock = clock
        self._effects: deque[Transition] = deque(maxlen=limit)
        self._causes: deque[Transition] = deque(maxlen=MAX_CAUSES)
        self._replaced = 0
        """ID of the latest event that was replaced; 0 if there is none."""
        self._states: dict[EventSubject, str] = {}
        self._clocks: dict[EventSubject, TimedState] = {}
        """The state of each part in the log, also in previous runs."""
        self._last: dict[EventSubject, Transition] = {}
        """The latest event of each part."""
        self._ongoing: dict[EventSubject, Transition] = {}
        """The events that began an ongoing failure, and that many later events have replaced."""
        self._merged: list[Transition] | None = None
        """All events, oldest first; None if they have changed since they were last merged."""
        self._last_id = 0

    @property
    def last_id(self) -> int:
        """The ID of the latest event; 0 if there is none."""
        return self._last_id

    def load(self, events: Iterable[Transition]) -> None:
        """Add the events of previous runs to those of this run.

        A part whose state differs from the last one of the previous runs, without an event of this run, gets one.

        Args:
            events: The events, oldest first. Those that the log already contains are skipped.
        """
        own = self.latest()
        current, subjects = self._states, {event.subject for event in own}
        ids = {event.id for event in own}
        loaded = [event for event in events if event.id not in ids]
        previous = {event.subject: event.state for event in loaded if event.subject.type in _KEPT}
        merged = sorted([*own, *loaded], key=lambda event: event.id)
        self._effects.clear()
        self._causes.clear()
        self._clocks.clear()
        self._last.clear()
        self._ongoing.clear()
        for event in merged:
            self._add(event)
        for full in (each for each in (self._effects, self._causes) if len(each) == each.maxlen):
            self._replaced = max(self._replaced, full[0].id)  # a previous run can have replaced the events before it
        self._last_id = merged[-1].id if merged else 0
        self._states = {**current, **{subject: previous[subject] for subject in previous.keys() - subjects}}
        for subject, state in current.items():
            self.observe(subject, state)

    def observe(self, subject: EventSubject, state: str, reason: str | None = None, detail: str = "") -> None:
        """Add an event if the state of `subject` differs from the state in its latest event.

        Args:
            subject: The part.
            state: Its current state.
            reason: As in `Transition`.
            detail: Text of any length.
        """
        previous = self._states.get(subject)
        if previous is None and state == _HEALTHY:
            self._states[subject] = state
        elif state != previous:
            self.record(subject, state, reason, detail)

    def record(self, subject: EventSubject, state: str, reason: str | None = None, detail: str = "") -> None:
        """Add an event. The arguments are those of `observe`."""
        now = self._clock()
        # IDs that contain the time increase even if the file of a previous run is lost.
        number = max(self._last_id + 1, int(now * 1000))
        previous = self._states.get(subject)
        self._last_id = number
        self._states[subject] = state
        self._add(Transition(number, now, subject, state, previous, reason, one_line(detail)))
        for watcher in self.watchers.copy():
            watcher()

    def began(self, subject: EventSubject, state: str, otherwise: float) -> float:
        """Return when a failure began, also if it began in a previous run, in seconds since the epoch.

        Args:
            subject: The part.
            state: Its current state.
            otherwise: When the state began in this run. Returned if the part is up, or if the log does not contain
                the beginning of the state.
        """
        clock = self._clocks.get(subject)
        if state == _HEALTHY or clock is None or clock.state != _timed(subject, state):
            return otherwise
        return clock.since

    def since(self, event_id: int) -> list[Transition] | None:
        """Return the events after the one with this ID; None if the log does not contain it or a later event."""
        events = self.latest()
        at = bisect_right(events, event_id, key=lambda event: event.id)
        if at == 0 or events[at - 1].id != event_id or event_id < self._replaced:
            return [] if event_id == self._last_id else None
        return events[at:]

    def latest(self) -> list[Transition]:
        """Return all events in the log, oldest first. The caller must not change the list."""
        if self._merged is None:
            parts = (*self._ongoing.values(), *self._effects, *self._causes)
            self._merged = sorted(parts, key=attrgetter("id"))
        return self._merged

    def _add(self, event: Transition) -> None:
        self._merged = None
        subject = event.subject
        if subject.type in _KEPT:
            clock = self._clocks.setdefault(subject, TimedState(event.at))
            clock.enter(_timed(subject, event.state), event.at)
            self._last[subject] = event
            self._ongoing.pop(subject, None)
        events = self._effects if subject.type in _MANY else self._causes
        if len(events) == events.maxlen:
            self._replace(events[0])
        events.append(event)

    def _replace(self, oldest: Transition) -> None:
        """Keep an event that is about to be replaced only if it began a failure that still lasts."""
        self._replaced = max(self._replaced, oldest.id)
        if self._last.get(oldest.subject) is oldest and oldest.state != _HEALTHY:
            self._ongoing[oldest.subject] = oldest
            if len(self._ongoing) > MAX_EVENTS:
                self._ongoing.pop(next(iter(self._ongoing)))


def _timed(subject: EventSubject, state: str) -> str:
    """Return the state whose beginning counts. A tunnel is down from a failure until it is up again."""
    if subject.type is EventType.TUNNEL and state in list(TunnelState):
        return TunnelState(state).availability
    return state
