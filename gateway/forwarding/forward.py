"""Runs one backend's listeners: admits clients, joins them to targets, closes them, and counts."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

from gateway.audit_log.recorder import Recorder
from gateway.contracts import CancelProtocol, CancelRequest, CloseReason, Endpoint, LoginTap, Relay, Stream
from gateway.errors import DialError, Reason
from gateway.forwarding.admission import Admission, Consumer, Refusal, Source
from gateway.forwarding.cancel_requests import CancelRouter
from gateway.forwarding.cancel_reserve import CancelReserve
from gateway.forwarding.connection_audit import NOT_CONNECTED, ConnectionAudit, ConnectionRecord
from gateway.forwarding.dialer import Dialer, Route
from gateway.forwarding.disconnect_watcher import DisconnectWatcher
from gateway.forwarding.drain_pacing import DrainPace, drain_order
from gateway.forwarding.listener import Listener
from gateway.forwarding.refusal_log import RefusalLog
from gateway.forwarding.routed_target import LinkSource, RoutedTarget
from gateway.forwarding.usage import UNKNOWN, ConnectionSlot, ConsumerUsage, Usage
from gateway.measure import Histogram, Tally, TapFactory
from gateway.relay.sockets import reset

log = logging.getLogger(__name__)

_IDENTIFY_TIMEOUT = 3.0
"""Seconds that a client waits until its container is known, if admission depends on it."""
_SHORT_IDENTIFY_TIMEOUT = 0.5
"""The same if only the counters depend on it."""
_STALL_SCAN_INTERVAL = 0.5
_STALL_REPORT_INTERVAL = 10.0
"""Seconds between two reports about one target, so that a slow server is not checked continuously."""
_DRAIN_INTERVAL = (0.1, 0.4)
_ANY_SOURCE = Source()
"""Stands for a client whose source does not matter."""
_LIMITS = (Refusal.MAX_CONNECTIONS, Refusal.CONSUMER_QUOTA)
_RESERVE_TIMEOUT = 10.0
"""Seconds after which a client beyond a limit is reset, even if its server has not closed the connection."""


@dataclass(frozen=True)
class Connection:
    """A client that is joined to a target.

    Args:
        relay: Carries the bytes.
        routed: The target.
        slot: The slot of its consumer; None if consumers are not counted.
        began: When it was joined, in seconds since the epoch.
        login: Watches its login; None if that is not needed.
        record: Its record for the audit log; None if the audit log is disabled.
    """

    __slots__ = ("began", "login", "record", "relay", "routed", "slot")
    relay: Relay
    routed: RoutedTarget
    slot: ConnectionSlot | None
    began: float
    login: LoginTap | None
    record: ConnectionRecord | None


class _OverLimit(NamedTuple):
    """A client beyond a limit: why it is refused unless it sends a cancel request, and where to count that."""

    refusal: Refusal
    address: str | None
    usage: Usage | None


class Forward:
    """The connections of one backend; a `gateway.contracts.Unit`.

    Args:
        name: The backend's name.
        listeners: Bound listeners. The caller closes them.
        admission: The admission rules.
        route: How to reach the targets.
        tap: Creates the taps that measure latency; None: the relay measures it by direction.
        prompt: Seconds without a response after which a target is reported as stalled; None: never.
        cancels: The protocol of cancel requests; None: the kind has none on connections of their own.
        recorder: Records clients in the audit log; None: they are not recorded.
    """

    def __init__(
        self,
        name: str,
        listeners: list[Listener],
        admission: Admission,
        route: Route,
        tap: TapFactory | None = None,
        prompt: float | None = None,
        cancels: CancelProtocol | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.name = name
        self.listeners = listeners
        self.admission = admission
        self.consumers = ConsumerUsage()
        self._latency = Histogram()
        self.accepted = 0
        self.resets: Tally = Tally()
        self.rejected: Tally = Tally()
        self.connections: dict[asyncio.Future[CloseReason], Connection] = {}
        self._on_ended = self._ended  # one bound method for all connections
        self._ended_to_backend = 0
        self._ended_from_backend = 0
        self._pending: set[asyncio.Task[None] | None] = set()
        """Tasks of clients that are not joined yet."""
        self._group: asyncio.TaskGroup | None = None
        self._cancels = CancelRouter(cancels) if cancels is not None else None
        self._dialer = Dialer(route, tap, self._cancels)
        self._reserve = CancelReserve()
        """Keyed by the client's task, or by its relay's `ended` once it is joined."""
        self._prompt = prompt
        self._drained_targets: frozenset[Endpoint] = frozenset()
        self._draining = False
        self._audit = ConnectionAudit(name, recorder or Recorder())
        self._refusal_log = RefusalLog(name)

    @property
    def active(self) -> int:
        """Current clients, joined or waiting."""
        return len(self.connections) + len(self._pending)

    @property
    def latency(self) -> Histogram:
        """Response latency of all clients."""
        return reduce(Histogram.plus, (usage.latency for usage in self.consumers.values()), self._latency)

    @property
    def to_backend(self) -> int:
        """Bytes sent to the backend since the start."""
        return self._ended_to_backend + sum(each.relay.to_backend for each in self.connections.values())

    @property
    def from_backend(self) -> int:
        """Bytes received from the backend since the start."""
        return self._ended_from_backend + sum(each.relay.from_backend for each in self.connections.values())

    async def run(self, ready: Callable[[], None]) -> None:
        """Accept clients until cancelled, then reset all of them. The listeners stay bound."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._start_accepting()
            ready()
            try:
                await self._report_stalls()
            finally:
                self._group = None
                self.abort_all()

    async def _report_stalls(self) -> None:
        """Report targets that do not answer: a server that hangs resets no connection."""
        if self._prompt is None:
            await asyncio.Event().wait()
            return
        reported: dict[Endpoint, float] = {}
        while True:
            await asyncio.sleep(_STALL_SCAN_INTERVAL)
            now = time.monotonic()
            for each in self.connections.values():
                since, target = each.relay.waiting_since, each.routed.target
                late = since is not None and since < now - self._prompt
                if late and reported.get(target, -_STALL_REPORT_INTERVAL) < now - _STALL_REPORT_INTERVAL:
                    reported[target] = now
                    self._dialer.route.on_stall(target)

    def update(self, listeners: list[Listener], admission: Admission, route: Route) -> None:
        """Replace listeners, admission rules and route for new clients. Joined clients are not affected.

        Listeners that are no longer in the list are not closed: another backend may have taken them over.
        """
        self.listeners, self.admission = listeners, admission
        self._dialer.set_route(route)
        self._start_accepting()

    def active_on(self, uplink: LinkSource) -> int:
        """Return the number of clients that are joined through `uplink`."""
        return sum(each.routed.uplink is uplink for each in self.connections.values())

    def abort_all(self) -> None:
        """Reset every client, joined or waiting."""
        for task in self._pending:
            if task is not None:
                task.cancel()
        for each in list(self.connections.values()):
            each.relay.abort(CloseReason.ABORTED)

    def abort_idle(self, seconds: float) -> None:
        """Reset the joined clients that do not await a response and have been silent for this many seconds."""
        before = time.monotonic() - seconds
        for relay in [each.relay for each in self.connections.values()]:
            if relay.last_active < before and not relay.awaiting_response:
                relay.abort(CloseReason.ABORTED)

    @property
    def fail_fast(self) -> bool:
        """Whether clients are reset instead of held while the uplink is down."""
        return self._dialer.fail_fast

    def set_fail_fast(self, *, enabled: bool) -> None:
        """See `gateway.forwarding.dialer.Dialer.set_fail_fast`."""
        self._dialer.set_fail_fast(enabled=enabled)

    def drain_targets(self, targets: frozenset[Endpoint]) -> None:
        """Reset the clients of `targets`, a few at a time, so that they reconnect to the right target."""
        self._drained_targets = targets
        if targets and not self._draining and self._group is not None:
            self._draining = True
            self._group.create_task(self._drain())

    async def _drain(self) -> None:
        pace, relays = None, self._relays_to_drain()
        try:
            while relays:
                now = time.monotonic()
                if pace is None or len(relays) > pace.clients:
                    pace = DrainPace(len(relays), now)
                for relay in drain_order(relays, pace.due(now)):
                    relay.abort(CloseReason.MOVED)
                await asyncio.sleep(random.uniform(*_DRAIN_INTERVAL))  # noqa: S311 - jitter, not a secret
                relays = self._relays_to_drain()
        finally:
            self._draining = False

    def _relays_to_drain(self) -> list[Relay]:
        return [each.relay for each in self.connections.values() if each.routed.target in self._drained_targets]

    def _start_accepting(self) -> None:
        if self._group is not None:
            for listener in self.listeners:
                listener.start(self._on_accept)

    def _on_accept(self, client: Stream) -> None:
        admission = self.admission
        source = Source.of(client) if admission.needs_source or self._audit.enabled else _ANY_SOURCE
        self._audit.accepted(client, source)
        refusal = admission.refusal(source, self.active - len(self._reserve))
        if refusal is not None:
            self._refuse_or_reserve(client, refusal)
            return
        self.accepted += 1
        if self._group is None:
            self._audit.not_joined(client, CloseReason.ABORTED)
            reset(client)
            return
        consumer: Consumer | None = admission.socket_consumer(source)
        if consumer is None:
            if source is None or source.address is None or not (admission.identity or admission.per_consumer):
                self._start_task(client, self._connect(client, None))
                return
            consumer = admission.identity.lookup(source.address) if admission.identity else None
            if consumer is None and admission.identity and not admission.identity.recently_unknown(source.address):
                self._start_task(client, self._identify_and_connect(client, source.address))
                return
        self._audit.identified(client, consumer)
        admitted = self._admit(source.address if source else None, consumer)
        if isinstance(admitted, ConnectionSlot):
            self._start_task(client, self._connect(client, admitted), admitted)
        else:
            self._refuse_or_reserve(client, *admitted)

    def _refuse_or_reserve(self, client: Stream, refusal: Refusal, usage: Usage | None = None) -> None:
        """Refuse a client. If only a limit refuses it, first read whether it sends a cancel request."""
        source = Source.of(client) if self._cancels is not None and refusal in _LIMITS else None
        room = source is not None and self._group is not None and self._reserve.has_room(source.address)
        if source is None or not room or self.admission.refusal(source, 0) is not None:
            self._refuse(client, refusal, usage)
            return
        over_limit = _OverLimit(refusal, source.address, usage)
        task = self._start_task(client, self._connect_cancel_request(client, over_limit))
        self._reserve.add(task, source.address)

    def _start_task(
        self, client: Stream, job: Coroutine[None, None, None], slot: ConnectionSlot | None = None
    ) -> "asyncio.Task[None] | None":
        if self._group is None:
            return None

        def on_done(task: asyncio.Task[None]) -> None:
            self._pending.discard(task)
            self._reserve.remove(task)
            if task.cancelled():  # possibly before the job started
                job.close()
                self._audit.not_joined(client, CloseReason.ABORTED)
                reset(client)
            if slot is not None:
                slot.release_unjoined()

        task = self._group.create_task(self._run_guarded(client, job))
        self._pending.add(task)
        task.add_done_callback(on_done)
        return task

    async def _run_guarded(self, client: Stream, job: Coroutine[None, None, None]) -> None:
        """Run `job`; reset its client on an unexpected exception, so that other clients are not affected."""
        try:
            await job
        except Exception:
            log.exception("unexpected error: the client is reset", extra={"backend": self.name})
            self.rejected[Reason.PROTOCOL] += 1
            self._audit.not_joined(client, NOT_CONNECTED, Reason.PROTOCOL)
            reset(client)

    def _refuse(self, client: Stream, refusal: Refusal, usage: Usage | None = None) -> None:
        self.rejected[refusal] += 1
        if usage is not None:
            usage.rejected[refusal] += 1
        self._audit.refused(client, refusal)
        self._refusal_log.refused(client, refusal, time.monotonic())
        reset(client)

    async def _identify_and_connect(self, client: Stream, address: str) -> None:
        """Wait until the client's container is known, which may have just started; then admit and join the client."""
        identity = self.admission.identity
        within = _IDENTIFY_TIMEOUT if self.admission.label is not None else _SHORT_IDENTIFY_TIMEOUT
        try:
            consumer = await identity.wait_for(address, within) if identity else None
        except BaseException:
            reset(client)
            raise
        self._audit.identified(client, consumer)
        admitted = self._admit(address, consumer)
        if isinstance(admitted, ConnectionSlot):
            try:
                await self._connect(client, admitted)
            finally:
                admitted.release_unjoined()
        else:
            self._refuse_or_reserve(client, *admitted)

    def _admit(self, address: str | None, consumer: Consumer | None) -> ConnectionSlot | tuple[Refusal, Usage]:
        """Return a slot for one more connection of the consumer; or why it is refused, and where to count that."""
        # Without a directory of containers, the address identifies the consumer. The status does not show it.
        name = consumer.name if consumer else (UNKNOWN if self.admission.identity or address is None else address)
        container_id = consumer.id if consumer else ""
        refusal = self.admission.consumer_refusal(consumer, self.consumers.active[name])
        if refusal is not None:
            return refusal, self.consumers.usage_of(name, container_id)
        return self.consumers.admit(name, container_id)

    async def _connect_cancel_request(self, client: Stream, over_limit: "_OverLimit") -> None:
        """Join a client beyond a limit if it sends a cancel request; otherwise refuse it."""
        request = None
        if await self._has_label(over_limit.address):
            with contextlib.suppress(DialError):  # the client has disconnected
                request = await self._dialer.read_cancel_request(client, DisconnectWatcher(client))
        if request is None:
            self._refuse(client, over_limit.refusal, over_limit.usage)
            return
        if over_limit.refusal is Refusal.MAX_CONNECTIONS:  # other clients were counted when they were accepted
            self.accepted += 1
        await self._connect(client, None, request)

    async def _has_label(self, address: str | None) -> bool:
        """Return whether the consumer rules admit a client beyond a limit, apart from the quota."""
        admission, consumer = self.admission, None
        if admission.label is None or address is None:
            return True
        if admission.identity is not None and not admission.identity.recently_unknown(address):
            consumer = await admission.identity.wait_for(address, _IDENTIFY_TIMEOUT)
        return admission.consumer_refusal(consumer, 0) is None

    async def _connect(
        self, client: Stream, slot: ConnectionSlot | None, request: CancelRequest | None = None
    ) -> None:
        """Join one client within the hold time, or reset it and count the reason.

        Args:
            client: The client's socket.
            slot: The slot of its consumer.
            request: The client's cancel request, if it was read already.
        """
        watcher = DisconnectWatcher(client)
        task = asyncio.current_task()
        relay: Relay | None = None
        try:
            latency = slot.usage.latency if slot else self._latency
            routed, relay, login = await self._dialer.join(client, watcher, latency, request)
        except DialError as error:
            self.rejected[error.reason] += 1
            self._audit.not_joined(client, NOT_CONNECTED, error.reason)
            log.debug(
                "client not connected",
                extra={"backend": self.name, "reason": error.reason, "detail": error.detail},
            )
            return
        except asyncio.CancelledError:
            close_reason = CloseReason.CLIENT_RESET if watcher.disconnected else CloseReason.ABORTED
            self.resets[close_reason] += 1
            self._audit.not_joined(client, close_reason)
            if not watcher.disconnected:
                raise
            return
        finally:
            if relay is None:
                watcher.stop()
                reset(client)
        self._pending.discard(task)
        if slot is not None:
            slot.join(relay)
        record = self._audit.joined(client)
        self.connections[relay.ended] = Connection(relay, routed, slot, time.time(), login, record)
        if login is not None and self._cancels is not None:
            self._cancels.add_session(routed, login)
        if self._reserve.rekey(task, relay.ended):
            timer = asyncio.get_running_loop().call_later(_RESERVE_TIMEOUT, relay.abort, CloseReason.ABORTED)
            relay.ended.add_done_callback(lambda _: timer.cancel())
        relay.ended.add_done_callback(self._on_ended)
        if routed.target in self._drained_targets:  # the target lost its role during the dial
            self.drain_targets(self._drained_targets)

    def _ended(self, ended: asyncio.Future[CloseReason]) -> None:
        connection, close_reason = self.connections.pop(ended), ended.result()
        relay, target = connection.relay, connection.routed.target
        self._reserve.remove(ended)
        self._audit.ended(connection.record, connection.routed, relay, close_reason)
        if connection.login is not None and self._cancels is not None:
            self._cancels.remove_session(connection.routed, connection.login)
        if connection.slot is not None:
            connection.slot.release()
        self._ended_to_backend += relay.to_backend
        self._ended_from_backend += relay.from_backend
        if close_reason is not CloseReason.FINISHED:
            self.resets[close_reason] += 1
        if close_reason is CloseReason.BACKEND_RESET:
            self._dialer.route.on_failure(target)
        self._dialer.record_end(target, relay, connection.began)
