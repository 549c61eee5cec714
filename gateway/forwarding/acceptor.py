"""Accepts or refuses the clients of one backend. A separate task connects each accepted client to a target."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import NamedTuple

from gateway.contracts.link import Stream
from gateway.contracts.states import CloseReason
from gateway.errors import DialError, FailureReason
from gateway.forwarding.admission import AdmissionRules, RefusalReason
from gateway.forwarding.cancel_request_reserve import CancelRequestReserve
from gateway.forwarding.client_connection_recorder import NOT_CONNECTED, ClientConnectionRecorder
from gateway.forwarding.client_identity import ClientSourceAddress, ConsumerIdentity
from gateway.forwarding.connected_clients import ConnectedClients
from gateway.forwarding.consumer_usage import UNKNOWN, ConsumerUsage, UsageCounters
from gateway.forwarding.pending_client import PendingClient
from gateway.forwarding.refusal_log import RefusalLog
from gateway.forwarding.retrying_dialer import RetryingDialer
from gateway.metric_types import Tally

log = logging.getLogger(__name__)

_IDENTIFY_TIMEOUT = 3.0
"""Maximum seconds to wait for the identity of a client's container, if the backend requires a label."""
_SHORT_IDENTIFY_TIMEOUT = 0.5
"""Maximum seconds to wait for the identity of a client's container, if only quota and counters depend on it."""
_ANY_SOURCE = ClientSourceAddress()
"""A placeholder for a client's source. It saves a system call if no rule, audit log or trace needs the source."""
_LIMITS = (RefusalReason.MAX_CONNECTIONS, RefusalReason.CONSUMER_QUOTA)


class _OverLimitClient(NamedTuple):
    """A client that exceeds a limit. The gateway refuses the client, unless the client sends a cancel request.

    A cancel request cancels a query that runs on another connection; see `gateway.forwarding.query_cancel_router`.
    """

    refusal: RefusalReason
    address: str | None
    usage: UsageCounters | None


class Acceptor:
    """Accepts or refuses the clients of one backend.

    Args:
        backend: The backend's name.
        admission: The admission rules.
        dialer: Reads cancel requests from clients that exceed a limit.
        connections: The clients that are connected to a target. They count toward the limits.
        client_events: Records the clients in the audit log and as trace spans.
        join: Connects an admitted client to a target. It runs in the client's task.
    """

    def __init__(
        self,
        backend: str,
        admission: AdmissionRules,
        dialer: RetryingDialer,
        connections: ConnectedClients,
        client_events: ClientConnectionRecorder,
        join: Callable[[PendingClient], Coroutine[None, None, None]],
    ) -> None:
        self.admission = admission
        self.consumers = ConsumerUsage()
        self.accepted = 0
        self.rejected: Tally = Tally()
        """For each reason, the number of clients that were rejected before they were connected to a target."""
        self.cancel_slots = CancelRequestReserve()
        """The clients that exceed a limit, but might send a cancel request."""
        self.pending: set[asyncio.Task[None] | None] = set()
        """Tasks of clients that are not connected to a target yet."""
        self.group: asyncio.TaskGroup | None = None
        """Runs the tasks of the clients. If it is None, the acceptor resets every new connection."""
        self.clients_elsewhere: Callable[[], int] = lambda: 0
        """Returns the number of clients that links have accepted in C, but not yet reported to Python code."""
        self._backend = backend
        self._dialer = dialer
        self._connections = connections
        self._client_events = client_events
        self._join = join
        self._refusal_log = RefusalLog(backend)

    @property
    def active(self) -> int:
        """Number of current clients, including clients that are not connected to a target yet."""
        return self.active_here + self.clients_elsewhere()

    @property
    def active_here(self) -> int:
        """Number of current clients, except those that the native engine accepted and has not reported to Python."""
        return len(self._connections) + len(self.pending)

    @property
    def accepts_anyone(self) -> bool:
        """Whether a link can accept the clients of this backend in C, without a decision by Python code.

        This requires that admission depends only on addresses and the number of connections, and that the audit log
        and traces are off.
        """
        return self.group is not None and not self._client_events.enabled and not self.admission.needs_identity

    def record_failure(self, client: PendingClient, error: DialError) -> None:
        """Count, record and log a client that could not be connected to a target."""
        self.rejected[error.reason] += 1
        self._client_events.not_joined(client.record, NOT_CONNECTED, error.reason)
        self._refusal_log.refused(client.sock, error.reason, time.monotonic(), error.detail)

    def abort_all(self) -> None:
        """Reset the connection of every client that is not connected to a target yet."""
        for task in self.pending:
            if task is not None:
                task.cancel()

    def accept(self, sock: Stream, waited: float = 0.0) -> None:
        """Admit or refuse a client. Takes ownership of the client's socket.

        Args:
            sock: The client's socket.
            waited: Seconds that the client has already waited. They are subtracted from the time that the client may
                wait for a target.
        """
        client, admission, group = PendingClient(sock, waited), self.admission, self.group
        source = (
            ClientSourceAddress.of(sock) if admission.needs_source or self._client_events.enabled else _ANY_SOURCE
        )
        client.record = self._client_events.accepted(source)
        refusal = admission.refusal(source, self.active - len(self.cancel_slots))
        if refusal is not None:
            self._refuse_or_reserve(client, refusal)
            return
        self.accepted += 1
        if group is None:
            self._client_events.not_joined(client.record, CloseReason.ABORTED)
            client.reset()
            return
        consumer: ConsumerIdentity | None = admission.socket_consumer(source)
        if consumer is None:
            if source is None or source.address is None or not (admission.identity or admission.per_consumer):
                self._start_task(group, client, self._join)
                return
            consumer = admission.identity.lookup(source.address) if admission.identity else None
            if consumer is None and admission.identity and not admission.identity.recently_unknown(source.address):
                address = source.address
                self._start_task(group, client, lambda client: self._identify_and_connect(client, address))
                return
        refused = self._admit(client, source.address if source else None, consumer)
        if refused is None:
            self._start_task(group, client, self._join)
        else:
            self._refuse_or_reserve(client, *refused)

    def _refuse_or_reserve(
        self, client: PendingClient, refusal: RefusalReason, usage: UsageCounters | None = None
    ) -> None:
        """Refuse a client. If the only reason is a limit, first give the client time to send a cancel request."""
        over_limit = self._cancel_candidate(client, refusal, usage)
        if over_limit is None or self.group is None:
            self._refuse(client, refusal, usage)
            return
        task = self._start_task(self.group, client, lambda client: self._connect_cancel_request(client, over_limit))
        self.cancel_slots.add(task, over_limit.address)

    def _cancel_candidate(
        self, client: PendingClient, refusal: RefusalReason, usage: UsageCounters | None
    ) -> "_OverLimitClient | None":
        """Return an `_OverLimitClient` if the client might send a cancel request.

        Return None if the client must be refused immediately.
        """
        source = (
            ClientSourceAddress.of(client.sock) if self._dialer.knows_cancel_requests and refusal in _LIMITS else None
        )
        room = source is not None and self.cancel_slots.has_room(source.address)
        if source is None or not room or self.admission.refusal(source, 0) is not None:
            return None
        return _OverLimitClient(refusal, source.address, usage)

    def _start_task(
        self,
        group: asyncio.TaskGroup,
        client: PendingClient,
        job: Callable[[PendingClient], Coroutine[None, None, None]],
    ) -> "asyncio.Task[None]":
        """Run `job` in a task. When the task ends, reset the client's connection, unless a relay owns it."""

        def on_done(task: asyncio.Task[None]) -> None:
            self.pending.discard(task)
            self.cancel_slots.remove(task)
            client.reset()

        def on_cancelled_before_start(task: asyncio.Task[None]) -> None:
            self._client_events.not_joined(client.record, CloseReason.ABORTED)
            on_done(task)

        async def run() -> None:
            # The task has started, so the `finally` block does the cleanup. The callback is no longer necessary, and
            # would cost one more iteration of the event loop.
            task.remove_done_callback(on_cancelled_before_start)
            try:
                await job(client)
            except asyncio.CancelledError:
                self._client_events.not_joined(client.record, CloseReason.ABORTED)
                raise
            except Exception:
                log.exception("unexpected error: the client's connection is reset", extra={"backend": self._backend})
                self.rejected[FailureReason.PROTOCOL] += 1
                self._client_events.not_joined(client.record, NOT_CONNECTED, FailureReason.PROTOCOL)
            finally:
                on_done(task)

        task: asyncio.Task[None] = group.create_task(run())
        self.pending.add(task)
        task.add_done_callback(on_cancelled_before_start)
        return task

    def _refuse(self, client: PendingClient, refusal: RefusalReason, usage: UsageCounters | None = None) -> None:
        self.rejected[refusal] += 1
        if usage is not None:
            usage.rejected[refusal] += 1
        self._client_events.refused(client.record, refusal)
        self._refusal_log.refused(client.sock, refusal, time.monotonic())
        client.reset()

    async def _identify_and_connect(self, client: PendingClient, address: str) -> None:
        """Identify the client's container, which might still be starting. Then admit or refuse the client."""
        identity = self.admission.identity
        within = _IDENTIFY_TIMEOUT if self.admission.label is not None else _SHORT_IDENTIFY_TIMEOUT
        consumer = await identity.wait_for(address, within) if identity else None
        refused = self._admit(client, address, consumer)
        if refused is None:
            await self._join(client)
        elif (over_limit := self._cancel_candidate(client, *refused)) is not None:
            self.cancel_slots.add(asyncio.current_task(), over_limit.address)
            await self._connect_cancel_request(client, over_limit)
        else:
            self._refuse(client, *refused)

    def _admit(
        self, client: PendingClient, address: str | None, consumer: ConsumerIdentity | None
    ) -> tuple[RefusalReason, UsageCounters] | None:
        """Check the label and the quota of the client's consumer. Count the client if it is admitted.

        Returns:
            None if the client is admitted. Otherwise, a tuple of the reason for the refusal and the consumer's
            counters.
        """
        if client.record is not None:
            client.record.consumer = consumer
        # If the gateway does not identify containers, use the client's address as the consumer's name.
        name = consumer.name if consumer else (UNKNOWN if self.admission.identity or address is None else address)
        container_id = consumer.id if consumer else ""
        refusal = self.admission.consumer_refusal(consumer, self.consumers.active[name])
        if refusal is not None:
            return refusal, self.consumers.usage_of(name, container_id)
        client.slot = self.consumers.admit(name, container_id)
        return None

    async def _connect_cancel_request(self, client: PendingClient, over_limit: "_OverLimitClient") -> None:
        """Wait for the cancel request of a client that exceeds a limit. Refuse the client if it sends none."""
        if await self._has_label(over_limit.address):
            with contextlib.suppress(DialError):  # a `DialError` means that the client has disconnected
                await self._dialer.read_cancel_request(client)
        if client.request is None:
            self._refuse(client, over_limit.refusal, over_limit.usage)
            return
        if over_limit.refusal is RefusalReason.MAX_CONNECTIONS:
            self.accepted += 1  # `accept` returned before it counted this client
        await self._join(client)

    async def _has_label(self, address: str | None) -> bool:
        """Return whether the client's container has the required label, if any. Does not check the quota.

        Clients on unix sockets (`address` is None) need no label.
        """
        admission, consumer = self.admission, None
        if admission.label is None or address is None:
            return True
        if admission.identity is not None and not admission.identity.recently_unknown(address):
            consumer = await admission.identity.wait_for(address, _IDENTIFY_TIMEOUT)
        return admission.consumer_refusal(consumer, 0) is None
