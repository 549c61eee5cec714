"""Accepts the clients of one backend, connects them to targets, and counts their connections and bytes."""

import asyncio
import time
from collections.abc import Callable
from functools import reduce

from gateway.audit_log.recorder import AuditLogRecorder
from gateway.connection_tap import TapFactory
from gateway.contracts.config_types import HostPort
from gateway.contracts.native_listener_interfaces import ShortLivedConnectionTotals
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.contracts.tracing import TraceExporter
from gateway.errors import DialError
from gateway.forwarding.acceptor import Acceptor
from gateway.forwarding.admission import AdmissionRules
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.client_connection_recorder import ClientConnectionRecorder, ConnectionRecord
from gateway.forwarding.connected_clients import ConnectedClient, ConnectedClients
from gateway.forwarding.consumer_usage import ConnectionSlot, ConsumerUsage
from gateway.forwarding.listener import Listener
from gateway.forwarding.native_acceptor import NativeAcceptor
from gateway.forwarding.pending_client import PendingClient
from gateway.forwarding.query_cancel_router import QueryCancelRouter
from gateway.forwarding.retrying_dialer import RetryingDialer
from gateway.forwarding.target_path import LinkProvider, TargetPath
from gateway.metric_types import Histogram, Tally
from gateway.query_cancel_parser import CancelKeyTap, QueryCancelParser

_STALL_SCAN_INTERVAL = 0.5
_STALL_REPORT_INTERVAL = 10.0
"""Minimum seconds between two reports that the same path has stalled. Each report triggers a check."""
_RESERVE_TIMEOUT = 10.0
"""Maximum seconds for which a client that exceeds a limit stays connected to a target. Such a client can only send a
cancel request, and a server normally closes the connection immediately."""


class Forward:
    """Forwards the connections of one backend's clients; implements `SupervisedComponent`.

    Args:
        name: The backend's name.
        listeners: Bound listeners. The caller owns and closes them.
        admission: The admission rules.
        route: The uplinks and targets, and the time limits.
        tap: Creates a tap that measures the latency of one connection; None if the relay itself measures the latency.
        response_timeout: Maximum seconds that a target may take to respond to a client. If the target takes longer,
            `BackendRoute.on_stall` is called. None: no limit.
        cancels: The protocol of cancel requests; None if clients send no cancel requests on separate connections.
        recorder: Records clients in the audit log; None if the audit log is disabled.
        exporter: Receives a span for each client; None if traces are disabled.
    """

    def __init__(
        self,
        name: str,
        listeners: list[Listener],
        admission: AdmissionRules,
        route: BackendRoute,
        tap: TapFactory | None = None,
        response_timeout: float | None = None,
        cancels: QueryCancelParser | None = None,
        recorder: AuditLogRecorder | None = None,
        exporter: TraceExporter | None = None,
    ) -> None:
        self.name = name
        self.listeners = listeners
        self.resets: Tally = Tally()
        self._latency = Histogram()
        self._connections = ConnectedClients()
        self._on_ended = self._ended  # create the bound method once, to save memory for each connection
        self._cancels = QueryCancelRouter(cancels) if cancels is not None else None
        self._dialer = RetryingDialer(route, tap, self._cancels)
        self._response_timeout = response_timeout
        self._client_events = ClientConnectionRecorder(name, recorder or AuditLogRecorder(), exporter)
        self._acceptor = Acceptor(
            name, admission, self._dialer, self._connections, self._client_events, self._connect
        )
        self._native: NativeAcceptor | None = None
        """Lets links accept clients. None if `tap` is set: Python code then accepts all clients."""
        if tap is None:
            self._native = native = NativeAcceptor(
                self._acceptor, self._dialer, self._latency, self._add, self._served, self._cancels
            )
            self._acceptor.clients_elsewhere = lambda: native.clients

    @property
    def active(self) -> int:
        """Number of current clients, including clients that are not connected to a target yet."""
        return self._acceptor.active

    @property
    def waiting(self) -> int:
        """Number of clients that are not connected to a target yet."""
        return len(self._acceptor.pending) + (self._native.waiting if self._native is not None else 0)

    @property
    def accepted(self) -> int:
        """Number of clients that were accepted since the start."""
        return self._acceptor.accepted

    @property
    def rejected(self) -> Tally:
        """For each reason, the number of clients that were rejected before they were connected to a target."""
        return self._acceptor.rejected

    @property
    def consumers(self) -> ConsumerUsage:
        """The usage counters of each consumer. The key is the consumer's name."""
        return self._acceptor.consumers

    @property
    def latency(self) -> Histogram:
        """Histogram of the response latencies of all clients, in seconds."""
        return reduce(Histogram.plus, (usage.latency for usage in self.consumers.values()), self._latency)

    @property
    def to_backend(self) -> int:
        """Number of bytes sent to the backend since the start."""
        return self._connections.to_backend

    @property
    def from_backend(self) -> int:
        """Number of bytes received from the backend since the start."""
        return self._connections.from_backend

    async def run(self, ready: Callable[[], None]) -> None:
        """Accept clients until this method is cancelled, then reset their connections. The listeners stay bound."""
        async with asyncio.TaskGroup() as group:
            self._acceptor.group = group
            self._start_accepting()
            ready()
            try:
                await self._report_stalls()
            finally:
                self._acceptor.group = None
                self.abort_all()

    async def _report_stalls(self) -> None:
        """Report each target that exceeds `response_timeout` to `BackendRoute.on_stall`, which triggers a check.

        Poll, because no event reports a server that hangs while its connections stay open.
        """
        if self._response_timeout is None:
            await asyncio.Event().wait()
            return
        reported: dict[TargetPath, float] = {}
        while True:
            await asyncio.sleep(_STALL_SCAN_INTERVAL)
            now = time.monotonic()
            reported = {target_path: at for target_path, at in reported.items() if at >= now - _STALL_REPORT_INTERVAL}
            for target_path in self._connections.stalled(now - self._response_timeout):
                if target_path not in reported:
                    reported[target_path] = now
                    self._dialer.target_dialer.route.on_stall(target_path)

    def update(self, listeners: list[Listener], admission: AdmissionRules, route: BackendRoute) -> None:
        """Replace the listeners, admission rules and route. Clients that are connected to a target are not affected.

        This method does not close removed listeners, because another backend might use them.
        """
        if self._native is not None:
            self._native.withdraw()
        self.listeners, self._acceptor.admission = listeners, admission
        self._dialer.set_route(route)
        self._start_accepting()

    def review(self) -> None:
        """Let Python code accept the clients again, if the native engine can no longer serve every new client."""
        if self._native is not None:
            self._native.review()

    def active_on(self, uplink: LinkProvider) -> int:
        """Return the number of clients whose connections use `uplink`."""
        elsewhere = self._native.count_on(uplink) if self._native is not None else 0
        return self._connections.count_on(uplink) + elsewhere

    def abort_all(self) -> None:
        """Reset the connections of all clients, including clients that are not connected to a target yet."""
        self._acceptor.abort_all()
        self._connections.abort_all()
        if self._native is not None:
            self._native.withdraw()
            self._native.recall()

    def abort_idle(self, seconds: float) -> None:
        """Reset connections that do not wait for a response and have been silent for more than `seconds` seconds."""
        self._connections.abort_idle(seconds)

    @property
    def fail_fast(self) -> bool:
        """Whether to reset connections, instead of letting clients wait, while all uplinks are down."""
        return self._dialer.fail_fast

    def set_fail_fast(self, *, enabled: bool) -> None:
        """Set whether to reset connections, instead of letting clients wait, while all uplinks are down."""
        self._dialer.set_fail_fast(enabled=enabled)

    def move_clients(self, drained: frozenset[HostPort], left: frozenset[HostPort] = frozenset()) -> None:
        """Reset connections to targets that have the wrong role, so that clients reconnect to the right target.

        The two sets replace the sets of the previous call.

        Args:
            drained: The targets whose client connections are reset gradually.
            left: The superseded primaries. All their client connections are reset immediately, because writes to
                these targets will be lost.
        """
        self._connections.drained_targets, self._connections.superseded_targets = drained, left
        self._connections.abort_superseded()
        group = self._acceptor.group
        if drained and group is not None:
            group.create_task(self._connections.drain())
        self.review()

    def _start_accepting(self) -> None:
        if self._acceptor.group is not None:
            for listener in self.listeners:
                listener.start(self._acceptor.accept)

    async def _connect(self, client: PendingClient) -> None:
        task = asyncio.current_task()
        try:
            latency = client.slot.usage.latency if client.slot else self._latency
            target_path, relay, login = await self._dialer.join(client, latency)
        except DialError as error:
            self._acceptor.record_failure(client, error)
            return
        except asyncio.CancelledError:
            close_reason = CloseReason.CLIENT_RESET if client.watcher.disconnected else CloseReason.ABORTED
            self.resets[close_reason] += 1
            self._client_events.not_joined(client.record, close_reason)
            if not client.watcher.disconnected:
                raise
            return
        self._acceptor.pending.discard(task)
        if client.slot is not None:
            client.slot.join(relay)
        record = self._client_events.joined(client.record)
        self._add(target_path, relay, login, time.monotonic(), client.slot, record)
        if self._acceptor.cancel_slots.rekey(task, relay.ended):
            timer = asyncio.get_running_loop().call_later(_RESERVE_TIMEOUT, relay.abort, CloseReason.ABORTED)
            relay.ended.add_done_callback(lambda _: timer.cancel())
        if self._native is not None:
            # A link that accepts clients sends all cancel requests to one target. If this client uses a different
            # target, the link must stop accepting clients, so that the cancel requests reach the right target.
            self.review()
            self._native.offer(target_path, self.listeners)

    def _add(
        self,
        target_path: TargetPath,
        relay: Relay,
        login: CancelKeyTap | None,
        began: float,
        slot: ConnectionSlot | None = None,
        record: ConnectionRecord | None = None,
    ) -> None:
        self._connections.add(ConnectedClient(relay, target_path, slot, began, login, record))
        if login is not None and self._cancels is not None:
            self._cancels.add_session(target_path.identity, login)
        relay.ended.add_done_callback(self._on_ended)
        if self._acceptor.group is None:
            # The native engine accepted this client before `run` ended. `run` has now ended, so reset the connection.
            relay.abort(CloseReason.ABORTED)
        if target_path.target in self._connections.drained_targets:
            # The target lost its role during the dial, so the client must reconnect to another target.
            self.move_clients(self._connections.drained_targets, self._connections.superseded_targets)

    def _served(self, clients: ShortLivedConnectionTotals) -> None:
        self._connections.add_ended(clients.to_backend, clients.from_backend)
        if clients.resets:
            self.resets[CloseReason.CLIENT_RESET] += clients.resets

    def _ended(self, ended: asyncio.Future[CloseReason]) -> None:
        connection, close_reason = self._connections.remove(ended), ended.result()
        relay, target_path = connection.relay, connection.target_path
        self._acceptor.cancel_slots.remove(ended)
        self._client_events.ended(connection.record, target_path, relay, close_reason)
        if connection.login is not None and self._cancels is not None:
            self._cancels.remove_session(target_path.identity, connection.login)
        if connection.slot is not None:
            connection.slot.release()
        if close_reason is not CloseReason.FINISHED:
            self.resets[close_reason] += 1
        dialer = self._dialer.target_dialer
        if close_reason is CloseReason.BACKEND_RESET:
            dialer.route.on_failure(target_path)
        dialer.record_end(target_path, relay, connection.began)
        if self._native is not None:
            self._native.count_change()
