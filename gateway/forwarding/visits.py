"""The clients of one backend from their arrival to their end, for the audit log; without one, nothing is kept."""

import time
from dataclasses import dataclass

from gateway.audit_log.recorder import Recorder
from gateway.audit_log.refusals import Refused
from gateway.contracts import Ending, Relay, Stream
from gateway.errors import Reason
from gateway.forwarding.admission import Consumer, Refusal, Source
from gateway.forwarding.path import Place

NOT_CONNECTED = "not_connected"
"""The ending of a client that was let in and could not be joined to a target."""


@dataclass
class Visit:
    """One client.

    Args:
        source: Where it comes from; None: it was gone before that could be asked.
        began: When it was accepted, in monotonic seconds.
        consumer: Its container, or the consumer of its unix socket, where that is known.
    """

    __slots__ = ("began", "consumer", "source")
    source: Source | None
    began: float
    consumer: Consumer | None


class Visits:
    """Tells the recorder of each client's end, or why it was refused.

    Args:
        backend: The backend's name.
        recorder: Where to.
    """

    def __init__(self, backend: str, recorder: Recorder) -> None:
        self._backend = backend
        self._recorder = recorder
        self._waiting: dict[Stream, Visit] = {}

    @property
    def on(self) -> bool:
        """Whether clients are recorded."""
        return self._recorder.on

    def begin(self, client: Stream, source: Source | None) -> None:
        """A client was accepted."""
        if not self._recorder.on:
            return
        self._waiting[client] = Visit(source, time.monotonic(), None)
        self._recorder.open += 1
        self._recorder.opened()

    def name(self, client: Stream, consumer: Consumer | None) -> None:
        """It is known now whose client it is."""
        visit = self._waiting.get(client)
        if visit is not None:
            visit.consumer = consumer

    def refuse(self, client: Stream, refusal: Refusal) -> None:
        """The client is turned away."""
        visit = self._leave(client)
        if visit is not None:
            source, consumer = visit.source, visit.consumer
            peer = source.peer if source else None
            refused = Refused(
                self._backend,
                source=None if source is None else source.address or str(source),
                path=source.path or None if source else None,
                uid=peer.uid if peer else None,
                consumer=consumer.name if consumer else None,
                reason=refusal,
            )
            self._recorder.refused(refused)

    def miss(self, client: Stream, ending: str, reason: Reason | None = None) -> None:
        """The client ends, where it has not ended already, and was joined to nothing."""
        visit = self._leave(client)
        if visit is not None:
            self._record(visit, None, None, ending, reason)

    def join(self, client: Stream) -> Visit | None:
        """The client is joined from now on: hand what is returned to `end` when it ends."""
        return self._waiting.pop(client, None)

    def end(self, visit: Visit | None, place: Place, relay: Relay, ending: Ending) -> None:
        """A client that was joined has ended."""
        if visit is not None:
            self._recorder.open -= 1
            self._record(visit, place, relay, ending, None)

    def _leave(self, client: Stream) -> Visit | None:
        visit = self._waiting.pop(client, None)
        if visit is not None:
            self._recorder.open -= 1
        return visit

    def _record(
        self, visit: Visit, place: Place | None, relay: Relay | None, ending: str, reason: Reason | None
    ) -> None:
        source, consumer = visit.source, visit.consumer
        peer = source.peer if source else None
        process = peer._asdict() if peer else {}
        self._recorder.record(
            "connection",
            backend=self._backend,
            source=None if source is None else str(source),
            **process,
            consumer=consumer.name if consumer else None,
            consumer_id=consumer.id or None if consumer else None,
            target=str(place.target) if place else None,
            tunnel=place.path.tunnel_name if place else None,
            bytes_to_backend=relay.to_backend if relay else 0,
            bytes_from_backend=relay.from_backend if relay else 0,
            seconds=round(time.monotonic() - visit.began, 3),
            ending=str(ending),
            reason=str(reason) if reason else None,
        )
