"""The worker's events on their way to the owner's audit log; a `gateway.audit_log.recorder.Sink`."""

import asyncio

from gateway.app.worker.messages import Recorded
from gateway.app.worker.messenger import Messenger
from gateway.audit_log.events import Event
from gateway.audit_log.recorder import Recorder
from gateway.config.model import AuditSection

_POLL = 0.01


class Outbound:
    """Sends events at the end of the loop's turn, so that few are lost with a process that is killed.

    Args:
        owner: Where to.
        recorder: Whose events they are.
    """

    def __init__(self, owner: Messenger, recorder: Recorder) -> None:
        self._owner = owner
        self._recorder = recorder
        self._most = AuditSection().queue
        self._events: list[Event] = []
        self._lost = 0
        self._sending = False
        recorder.on_client_opened = self._soon

    def apply(self, section: AuditSection) -> None:
        """Record from now on, or no longer."""
        self._most = section.queue
        if section.log is None:
            self._recorder.flush()
        self._recorder.sink = self if section.log is not None else None

    def put(self, event: Event) -> None:
        """See `gateway.audit_log.recorder.Sink`."""
        if len(self._events) < self._most:
            self._events.append(event)
        else:
            self._lost += 1
        self._soon()

    def count_lost(self, count: int, why: str) -> None:
        """See `gateway.audit_log.recorder.Sink`."""
        del why
        self._lost += count

    @property
    def held(self) -> bool:
        """Whether something waits because the owner is slow to read."""
        return bool(self._events or self._lost)

    def send(self) -> None:
        """Send what there is, unless the owner is slow to read: it waits here then, up to a limit."""
        self._sending = False
        if not self._owner.backlogged:
            events, self._events = self._events, []
            lost, self._lost = self._lost, 0
            self._owner.send(Recorded(events, lost, self._recorder.open_clients))

    async def finish(self, within: float) -> None:
        """Send everything; gives up after so many seconds."""
        self._recorder.flush()
        deadline = asyncio.get_running_loop().time() + within
        while (self._events or self._owner.backlogged) and asyncio.get_running_loop().time() < deadline:
            self.send()
            await asyncio.sleep(_POLL if self._owner.backlogged else 0)

    def _soon(self) -> None:
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().call_soon(self.send)
