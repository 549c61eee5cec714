"""Caches a view of the service's state. After an event, updates only the backends that changed."""

import asyncio
import time
from collections.abc import Iterable
from typing import NamedTuple

from gateway.ops.events import StateChange, SubjectType
from gateway.ops.service_interface import ServiceInterface
from gateway.ops.status_views import ServiceView


class VersionedStatusView(NamedTuple):
    """A view of the service's state, with a number that increases with each new view.

    Args:
        view: The view.
        event: The ID of the latest event that the view takes into account; 0 if there is none.
        number: Increases with each new view.
    """

    view: ServiceView
    event: int
    number: int


class StatusViewCache:
    """Caches a view of the service's state, which all HTTP clients share.

    A service can have hundreds of backends. Therefore, an event of a backend, or of one of its targets, updates only
    this backend in the view. Values that change without an event, such as the number of clients, can be as old
    as the last complete view.

    Args:
        service: The service.
    """

    def __init__(self, service: ServiceInterface) -> None:
        self._service = service
        self._lock = asyncio.Lock()
        self._last: VersionedStatusView | None = None
        self._complete_view_started = 0.0
        """Monotonic time, in seconds, at which the service began to build the last complete view."""
        self._commands = self._commands_seen = 0

    async def get(self, max_age: float) -> VersionedStatusView:
        """Return a view of the service's state. Only values that change without an event can be outdated.

        The phase is always current.

        Args:
            max_age: Maximum age, in seconds, of values that change without an event.
        """
        async with self._lock:
            last, event, now, commands = self._last, self._service.events.last_id, time.monotonic(), self._commands
            is_old = last is None or now - self._complete_view_started >= max_age or commands != self._commands_seen
            if last is None or is_old or last.view.status != self._service.phase():
                changed = None
            elif event == last.event:
                return last
            else:
                changed = _changed_backends(self._service.events.since(last.event))
            if last is None or changed is None:
                view = await self._service.view()
                self._complete_view_started, self._commands_seen = now, commands
            else:
                view = await self._service.updated_view(last.view, changed)
            self._last = VersionedStatusView(view, event, last.number + 1 if last else 1)
            return self._last

    def clear(self) -> None:
        """Discard the cached view of the service's state, because a command has changed the state.

        The next call of `get` builds a new view.
        """
        self._commands += 1


def _changed_backends(events: Iterable[StateChange] | None) -> set[str] | None:
    """Return the names of the backends to update; None if a complete view is necessary.

    Events of other subjects, such as tunnels, require a complete view.

    Args:
        events: The events since the last view; None if the event log no longer contains all of them.
    """
    if events is None or any(each.subject.type not in (SubjectType.BACKEND, SubjectType.TARGET) for each in events):
        return None
    return {each.subject.name for each in events if each.subject.name is not None}
