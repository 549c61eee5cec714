"""Sends a worker's audit events to the main process."""

import asyncio

from gateway.app.worker.messages import AuditEvents
from gateway.app.worker.messenger import Messenger
from gateway.audit_log.events import AuditEvent
from gateway.audit_log.recorder import AuditRecorder
from gateway.config.model import AuditSection

_POLL = 0.01


class AuditEventSender:
    """Sends events at the end of each iteration of the event loop; implements `gateway.audit_log.recorder.EventSink`.

    If the worker is killed, it loses only the events of one iteration and the events that the owner has not read.

    Args:
        owner: The connection to the owner.
        recorder: The worker's recorder.
    """

    def __init__(self, owner: Messenger, recorder: AuditRecorder) -> None:
        self._owner = owner
        self._recorder = recorder
        self._max_queued = AuditSection().queue
        self._events: list[AuditEvent] = []
        self._lost = 0
        self._sending = False
        recorder.on_client_opened = self._schedule_send

    def apply(self, section: AuditSection) -> None:
        """Start recording if a configuration has an audit log; stop recording otherwise."""
        self._max_queued = section.queue
        if section.log is None:
            self._recorder.flush()
        self._recorder.sink = self if section.log is not None else None

    def put(self, event: AuditEvent) -> None:
        """Queue an event, or count it as dropped. See `gateway.audit_log.recorder.EventSink`."""
        if len(self._events) < self._max_queued:
            self._events.append(event)
        else:
            self._lost += 1
        self._schedule_send()

    def count_lost(self, count: int, why: str) -> None:
        """Count events that were lost before they reached the sink, and record the loss in the log."""
        del why
        self._lost += count

    @property
    def held(self) -> bool:
        """Whether events are queued because the owner reads slowly."""
        return bool(self._events or self._lost)

    def send(self) -> None:
        """Send the queued events, unless the owner reads slowly."""
        self._sending = False
        if not self._owner.backlogged:
            events, self._events = self._events, []
            lost, self._lost = self._lost, 0
            self._owner.send(AuditEvents(events, lost, self._recorder.open_clients))

    async def finish(self, within: float) -> None:
        """Send all events; give up after `within` seconds."""
        self._recorder.flush()
        deadline = asyncio.get_running_loop().time() + within
        while (self._events or self._owner.backlogged) and asyncio.get_running_loop().time() < deadline:
            self.send()
            await asyncio.sleep(_POLL if self._owner.backlogged else 0)

    def _schedule_send(self) -> None:
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().call_soon(self.send)
