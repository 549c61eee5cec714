"""Keeps the view of the service up to date, and builds only the backends that events name."""

import asyncio
import time
from collections.abc import Iterable
from typing import NamedTuple

from gateway.ops.events import SubjectType, Transition
from gateway.ops.service_interface import ControlledService
from gateway.ops.status_views import ServiceView


class ViewAt(NamedTuple):
    """A view of the service.

    Args:
        view: The view.
        event: The ID of the latest event that it contains; 0 if there is none.
        number: The number of the view, which increases with each view.
    """

    view: ServiceView
    event: int
    number: int


class LiveView:
    """The view of the service, which all clients of a group of listeners share.

    A site has hundreds of backends. After an event of a backend or a target, the service builds only the view of this
    backend. Values that change without an event, such as the number of clients, are as old as the last complete view.

    Args:
        service: The service.
    """

    def __init__(self, service: ControlledService) -> None:
        self._service = service
        self._lock = asyncio.Lock()
        self._last: ViewAt | None = None
        self._completed = 0.0
        """Monotonic time at which the service began to build the last complete view."""
        self._commands = self._commands_seen = 0

    async def get(self, max_age: float) -> ViewAt:
        """Return a view that contains all events and the current phase.

        Args:
            max_age: Maximum age of the values that change without an event, in seconds.
        """
        async with self._lock:
            last, event, now, commands = self._last, self._service.events.last_id, time.monotonic(), self._commands
            is_old = last is None or now - self._completed >= max_age or commands != self._commands_seen
            if last is None or is_old or last.view.status != self._service.phase():
                changed = None
            elif event == last.event:
                return last
            else:
                changed = _changed_backends(self._service.events.since(last.event))
            if last is None or changed is None:
                view = await self._service.view()
                self._completed, self._commands_seen = now, commands
            else:
                view = await self._service.updated_view(last.view, changed)
            self._last = ViewAt(view, event, last.number + 1 if last else 1)
            return self._last

    def clear(self) -> None:
        """Make the next view complete, because a command has changed the state."""
        self._commands += 1


def _changed_backends(events: Iterable[Transition] | None) -> set[str] | None:
    """Return the backends that events name; None if the events are not known, or concern other parts too."""
    if events is None or any(each.subject.type not in (SubjectType.BACKEND, SubjectType.TARGET) for each in events):
        return None
    return {each.subject.name for each in events if each.subject.name is not None}
