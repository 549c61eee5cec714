"""Records client connections in the audit log, and as trace spans."""

import time
from dataclasses import dataclass

from gateway.audit_log.recorder import AuditLogRecorder
from gateway.audit_log.refusal_event_limiter import RefusalKey
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.contracts.tracing import ConnectionPhaseRecorder, ConnectionSpanData, TraceExporter
from gateway.errors import FailureReason
from gateway.forwarding.admission import RefusalReason
from gateway.forwarding.client_identity import ClientSourceAddress, ConsumerIdentity
from gateway.forwarding.target_path import TargetPath

NOT_CONNECTED = "not_connected"
"""Value of the field `ending` for a client that was admitted, but could not be connected to a target."""
_REFUSED = "refused"
"""Value of the span attribute `ending` for a client that was refused."""


@dataclass
class ConnectionRecord:
    """The data of one client connection for its audit events and its trace span.

    Args:
        source: The client's source; None if the client disconnected before the source could be read.
        accepted_at: Monotonic time at which the gateway accepted the client.
        consumer: The client's container or the consumer of its unix socket; None if unknown.
        audited: Whether the audit log records the client.
        trace: The beginning and end of each phase of the connection; None while traces are disabled.
        pending: Whether the client still waits for a target. False after the client was connected to a target or
            refused, or after its connection was reset.
    """

    __slots__ = ("accepted_at", "audited", "consumer", "pending", "source", "trace")
    source: ClientSourceAddress | None
    accepted_at: float
    consumer: ConsumerIdentity | None
    audited: bool
    trace: ConnectionPhaseRecorder | None
    pending: bool


class ClientConnectionRecorder:
    """Writes audit events and trace spans for all clients of one backend, if the audit log or traces are enabled.

    Args:
        backend: The backend's name.
        recorder: Receives the events.
        exporter: Receives the spans; None if traces are disabled.
    """

    def __init__(self, backend: str, recorder: AuditLogRecorder, exporter: TraceExporter | None = None) -> None:
        self._backend = backend
        self._recorder = recorder
        self._exporter = exporter

    @property
    def enabled(self) -> bool:
        """Whether clients are recorded, in the audit log or as traces."""
        return self._recorder.enabled or self._exporter is not None

    def accepted(self, source: ClientSourceAddress | None) -> ConnectionRecord | None:
        """Return a new record for an accepted client; None while both the audit log and traces are disabled."""
        audited = self._recorder.enabled
        trace = ConnectionPhaseRecorder() if self._exporter is not None else None
        if not audited and trace is None:
            return None
        return ConnectionRecord(source, time.monotonic(), None, audited=audited, trace=trace, pending=True)

    def refused(self, record: ConnectionRecord | None, refusal: RefusalReason) -> None:
        """Record that a client was refused."""
        if record is not None and self._end(record):
            source, consumer = record.source, record.consumer
            self._export(record, None, None, _REFUSED, refusal)
            if not record.audited:
                return
            peer = source.peer if source else None
            key = RefusalKey(
                self._backend,
                source=None if source is None else source.address or str(source),
                path=source.path or None if source else None,
                uid=peer.uid if peer else None,
                consumer=consumer.name if consumer else None,
                reason=refusal,
            )
            self._recorder.record_refusal(key)

    def not_joined(self, record: ConnectionRecord | None, ending: str, reason: FailureReason | None = None) -> None:
        """Record that a connection was closed before its client was connected to a target. Further calls do nothing.

        Args:
            record: The client's record.
            ending: Value of the field `ending` in the audit event: a `CloseReason` or `NOT_CONNECTED`.
            reason: Why no target could be reached; None if the connection was closed for another reason.
        """
        if record is not None and self._end(record):
            self._write(record, None, None, ending, reason)

    def joined(self, record: ConnectionRecord | None) -> ConnectionRecord | None:
        """Record that a client was connected to a target. Return `record`, for the later call of `ended`."""
        if record is not None:
            record.pending = False
            if record.trace is not None:
                record.trace.enter("")
        return record

    def ended(
        self, record: ConnectionRecord | None, target_path: TargetPath, relay: Relay, close_reason: CloseReason
    ) -> None:
        """Record that a client's connection to a target has ended.

        Args:
            record: The record that `joined` returned.
            target_path: The target and the tunnel.
            relay: The connection's relay; provides the byte counts.
            close_reason: Why the connection ended.
        """
        if record is not None:
            self._write(record, target_path, relay, close_reason, None)

    def _end(self, record: ConnectionRecord) -> bool:
        """Mark a client as no longer pending. Return False if it was not pending."""
        if not record.pending:
            return False
        record.pending = False
        return True

    def _write(
        self,
        record: ConnectionRecord,
        target_path: TargetPath | None,
        relay: Relay | None,
        ending: str,
        reason: FailureReason | None,
    ) -> None:
        self._export(record, target_path, relay, ending, reason)
        if not record.audited:
            return
        source, consumer = record.source, record.consumer
        peer = source.peer if source else None
        process = peer._asdict() if peer else {}
        self._recorder.record(
            "connection",
            backend=self._backend,
            source=None if source is None else str(source),
            **process,
            consumer=consumer.name if consumer else None,
            consumer_id=consumer.id or None if consumer else None,
            target=str(target_path.target) if target_path else None,
            tunnel=target_path.uplink.tunnel_name if target_path else None,
            bytes_to_backend=relay.to_backend if relay else 0,
            bytes_from_backend=relay.from_backend if relay else 0,
            seconds=round(time.monotonic() - record.accepted_at, 3),
            ending=str(ending),
            reason=str(reason) if reason else None,
        )

    def _export(
        self,
        record: ConnectionRecord,
        target_path: TargetPath | None,
        relay: Relay | None,
        ending: str,
        reason: str | None,
    ) -> None:
        if self._exporter is None or record.trace is None:
            return
        record.trace.enter("")
        self._exporter.export(
            ConnectionSpanData(
                record.trace,
                ended=record.trace.now,
                backend=self._backend,
                ending=str(ending),
                reason=str(reason) if reason else None,
                tunnel=target_path.uplink.tunnel_name if target_path else None,
                target=target_path.target if target_path else None,
                client=record.source.address if record.source else None,
                consumer=record.consumer.name if record.consumer else None,
                to_backend=relay.to_backend if relay else 0,
                from_backend=relay.from_backend if relay else 0,
            )
        )
