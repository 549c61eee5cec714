"""What the rooms call when something is to be recorded; nothing happens while there is no audit log."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from gateway.audit_log.events import Event
from gateway.audit_log.refusals import WINDOW, Refusals, Refused


class Sink(Protocol):
    """Takes events; never blocks."""

    def put(self, event: Event) -> None:
        """Take one event, or count it as dropped."""

    def lost(self, count: int, why: str) -> None:
        """Count events that were lost on their way here, and say so in the log."""


class Recorder:
    """Records events of one process; used in its event loop only."""

    def __init__(self) -> None:
        self.sink: Sink | None = None
        """Where events go; None: nowhere."""
        self.open = 0
        """Clients whose end is still to be recorded."""
        self.opened: Callable[[], None] = lambda: None
        """Called when `open` grows."""
        self._refusals = Refusals()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def on(self) -> bool:
        """Whether anything is recorded."""
        return self.sink is not None

    def record(self, event: str, /, **fields: Any) -> None:
        """Record `event` as of now.

        Args:
            event: Its kind, as docs/audit-log.md lists them.
            fields: The rest; no secrets, and values that JSON can hold.
        """
        if self.sink is not None:
            self.sink.put(Event(time.time(), event, fields))

    def refused(self, refused: Refused) -> None:
        """Record that a client was turned away; the same again within a second is counted, and recorded later."""
        if self.sink is None:
            return
        first = self._refusals.note(refused, time.monotonic())
        if first is not None:
            self._refused(first, 1)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WINDOW, self._tick)

    def flush(self) -> None:
        """Record the refusals that were only counted so far."""
        for refused, count in self._refusals.rest():
            self._refused(refused, count)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        for refused, count in self._refusals.due(time.monotonic()):
            self._refused(refused, count)
        if self._refusals:
            self._timer = asyncio.get_running_loop().call_later(WINDOW, self._tick)

    def _refused(self, refused: Refused, count: int) -> None:
        self.record("refused", **refused._asdict(), count=count)
