"""Passes audit events to the audit log, and limits the number of events about refused clients."""

import asyncio
import time
from typing import Any, Protocol

from gateway.audit_log.events import AuditLogEvent
from gateway.audit_log.refusal_event_limiter import WINDOW, RefusalEventLimiter, RefusalKey


class EventSink(Protocol):
    """Defines the interface of objects that receive audit events, such as the writer of the audit log."""

    def put(self, event: AuditLogEvent) -> None:
        """Queue an event. If the queue is full, count the event as dropped. Never blocks."""


class AuditLogRecorder:
    """Records audit events, unless the audit log is disabled. Call its methods only in the event loop."""

    def __init__(self) -> None:
        self.sink: EventSink | None = None
        """The receiver of the events; None if the audit log is disabled."""
        self._refusals = RefusalEventLimiter()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def enabled(self) -> bool:
        """Whether events are recorded."""
        return self.sink is not None

    def record(self, event: str, /, **fields: Any) -> None:
        """Record an event with the current time.

        Args:
            event: The kind of event; see docs/audit-log.md.
            fields: Further fields, with values that JSON can represent. They must not contain secrets.
        """
        if self.sink is not None:
            self.sink.put(AuditLogEvent(time.time(), event, fields))

    def record_refusal(self, key: RefusalKey) -> None:
        """Count a refused client. Record at most one event per second and key, with the number of refusals.

        Args:
            key: Identifies the refusals that one event reports together.
        """
        if self.sink is None:
            return
        first = self._refusals.add(key, time.monotonic())
        if first is not None:
            self._record_refusals(first, 1)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WINDOW, self._tick)

    def flush(self) -> None:
        """Record all refusals that were counted, but not recorded yet.

        Call this method before `sink` changes, and before a shutdown.
        """
        for key, count in self._refusals.drain():
            self._record_refusals(key, count)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        for key, count in self._refusals.due(time.monotonic()):
            self._record_refusals(key, count)
        if self._refusals:
            self._timer = asyncio.get_running_loop().call_later(WINDOW, self._tick)

    def _record_refusals(self, key: RefusalKey, count: int) -> None:
        self.record("refused", **key._asdict(), count=count)
