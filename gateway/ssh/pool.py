"""Implements an SSH tunnel as a pool of SSH connections. New channels use the least loaded connection."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from math import inf

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import RemoteNetworkId, Stream
from gateway.contracts.native_listener_interfaces import AcceptedClientHandler, NativeListenerRule
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import TunnelStateCallback
from gateway.errors import FailureReason, LinkLostError, TunnelError
from gateway.metric_types import Histogram
from gateway.relay.dial_retry import retry_dial
from gateway.relay.socket_pair import socket_pair
from gateway.ssh.channel_interfaces import SshChannel
from gateway.ssh.options import SshOptions
from gateway.ssh.pool_dialer import DialConnection, PoolDialer
from gateway.ssh.pool_policy import SLOW_KEEPALIVE, ConnectionHealth, choose_connection, choose_spare, evaluate
from gateway.ssh.pool_status import SshTunnelStatus, pool_status
from gateway.ssh.pooled_connection import PooledConnection
from gateway.ssh.slow_channel_open_detector import SlowChannelOpenDetector
from gateway.ssh.ssh_native_listener_group import SshNativeListenerGroup, SshNativeListenerManager

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.5
_SLOW_OPEN = 0.4
"""Seconds to wait for the reply to a CHANNEL_OPEN request before the pool checks whether the connection is alive."""
_TIMER_SLACK = 0.01
"""Seconds to add to the delay of a timer, because the event loop can run a timer slightly too early."""
_LATE_TICK = 1.0
"""If the keepalive timer is late by more than this number of seconds, or by more than half of `keepalive.suspect`,
the pool assumes that this process was suspended."""
_NO_ANSWER_HINT = (
    "the SSH server has not replied to any CHANNEL_OPEN request yet: check that it permits TCP forwarding, "
    "and that the target's firewall does not drop packets"
)
_IDLE_BEFORE_SHRINK = 60.0
"""Seconds after which the pool closes an idle connection that it does not need."""


class SshConnectionPool:
    """A pool of SSH connections that carries the traffic of one tunnel; implements `gateway.contracts.link.Link`.

    Args:
        options: The tunnel's options.
        network: The network in which the addresses of the targets are valid.
        dial: Opens a connection. Raises `TargetPathError` on failure.
        progress: Called when all connections have become silent, and when a connection is usable again.
    """

    def __init__(
        self, options: SshOptions, network: RemoteNetworkId, dial: DialConnection, progress: TunnelStateCallback
    ) -> None:
        self.network = network
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._progress = progress
        self._connections: list[PooledConnection] = []
        self._usable: list[PooledConnection] = []
        self._lost: asyncio.Future[TunnelError] = asyncio.get_running_loop().create_future()
        self._target_size = options.connections.min
        self._dialer = PoolDialer(options.endpoint, dial, self._missing_count, self._add, self._start_task)
        self._all_silent = False
        self._idle_since = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._slow_opens = SlowChannelOpenDetector(self._loop, _SLOW_OPEN, self._check_alive)
        self._listeners = SshNativeListenerManager(self._check_alive, self._grow)

    @contextlib.asynccontextmanager
    async def running(self, first: PooledConnection) -> AsyncIterator["SshConnectionPool"]:
        """Maintain the pool while the context is active. On exit, close the pool's connections.

        Args:
            first: An open connection. The pool takes ownership of it.
        """
        self._add(first)
        background = {self._start_task(self._send_keepalives()), self._start_task(self._dialer.run())}
        try:
            yield self
        finally:
            self._slow_opens.close()
            self._listeners.update(())
            for task in background | self._dialer.tasks:
                task.cancel()
            await asyncio.gather(*(connection.close() for connection in self._connections))
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def join(
        self, client: Stream, to: HostPort, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> SshChannel:
        """Dial `to`, and forward bytes between the target and `client`. See `gateway.contracts.link.Link`."""
        connection = self._choose()
        if connection is None:
            raise LinkLostError
        token = self._slow_opens.begin(connection)
        try:
            return await connection.join(client, to, latency, within, tap)
        finally:
            self._slow_opens.end(token)

    def listen(
        self, rule: NativeListenerRule, permits: int, handler: AcceptedClientHandler
    ) -> SshNativeListenerGroup | None:
        """Accept clients in the native engine. See `LinkWithNativeListeners`."""
        return self._listeners.listen(rule, permits, [each for each in self._usable if each.alive], handler)

    def _choose(self) -> PooledConnection | None:
        """Return the connection for the next channel; None if no connection is usable.

        If all usable connections have many channels, start to dial another connection.
        """
        usable = [connection for connection in self._usable if connection.alive]
        if not usable:
            return None
        chosen, grow = choose_connection([connection.load for connection in usable], self._options.connections.max)
        if grow:
            self._grow()
        return usable[chosen]

    def _grow(self) -> None:
        """Start to dial another connection, unless the pool has its maximum size or already dials one.

        In any case, do not close idle connections for the next `_IDLE_BEFORE_SHRINK` seconds.
        """
        usable = sum(connection.alive for connection in self._usable)
        self._idle_since = time.monotonic()
        if self._target_size <= usable < self._options.connections.max:
            self._target_size = usable + 1
            self._dialer.wake()

    def _check_alive(self, connection: PooledConnection) -> None:
        connection.check_alive()
        # Apply the policy as soon as the reply to the keepalive is overdue, so that new and pending channels use
        # another connection. If the policy ran later, a dial might time out first, and the gateway would try another
        # target.
        self._loop.call_later(SLOW_KEEPALIVE + _TIMER_SLACK, lambda: self._apply_policy(time.monotonic()))

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        """Connect a non-blocking socket to `to`, and record the duration as the phase `channel`.

        See `gateway.contracts.link.Link`.
        """
        caller_end, relay_end = socket_pair()
        timed = phases or PhaseTimer()
        answered = any(connection.has_answered_open for connection in self._connections)
        timed.timeout_hint = "" if answered else _NO_ANSWER_HINT
        try:
            with timed("channel"):
                relay = await retry_dial(
                    lambda within: self.join(relay_end, to, Histogram(), within),
                    timed.on_abandoned,
                    self._options.dial_timeout,
                )
        except BaseException:
            caller_end.close()
            relay_end.close()
            raise
        timed.timeout_hint = ""
        caller_end.broken = lambda: relay.cut_short
        return caller_end

    async def lost(self) -> TunnelError:
        """Wait until no connection is open, or the pool fails. Return the cause as an error that is not fatal."""
        return await asyncio.shield(self._lost)

    def renew(self) -> None:
        """Replace all connections with new ones that log in with the current credentials.

        Each old connection closes when its last channel has closed.
        """
        for connection in self._connections:
            connection.outdated = True
        self._dialer.renew()

    def status(self) -> SshTunnelStatus:
        """Return the status of the link."""
        suspect = self._options.keepalive.suspect
        return pool_status(self._connections, self._usable, suspect, self._dialer.last_error)

    def _start_task(self, job: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(job)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The pool cannot work without this task. Report the link as lost, so that the tunnel is opened again.
            log.error("the SSH pool for %s failed: reopening the tunnel", self._options.endpoint, exc_info=error)
            if not self._lost.done():
                self._lost.set_result(TunnelError(FailureReason.RESET, f"{type(error).__name__}: {error}"))

    def _add(self, connection: PooledConnection) -> None:
        self._connections.append(connection)
        connection.send_keepalive()
        self._start_task(self._remove_when_lost(connection))
        self._apply_policy(time.monotonic())

    async def _remove_when_lost(self, connection: PooledConnection) -> None:
        added = time.monotonic()
        why = await connection.lost()
        self._connections.remove(connection)
        self._apply_policy(time.monotonic())
        self._dialer.on_lost(time.monotonic() - added, why)
        if not any(other.alive for other in self._connections) and not self._lost.done():
            self._lost.set_result(TunnelError(FailureReason.RESET, why))

    async def _send_keepalives(self) -> None:
        """Periodically send the keepalives that are due, apply the pool policy, and close unneeded connections."""
        last = time.monotonic()
        tick = min(_TICK_SECONDS, self._options.keepalive.interval)
        late = min(_LATE_TICK, self._options.keepalive.suspect / 2)
        while True:
            await asyncio.sleep(tick)
            now = time.monotonic()
            if now - last > tick + late:
                for connection in self._connections:
                    connection.discount_suspension(now - last - tick)
            last = now
            for connection in self._connections:
                if connection.keepalive_due(now - self._options.keepalive.interval):
                    connection.send_keepalive()
            self._apply_policy(now)
            self._shrink(now)

    def _apply_policy(self, now: float) -> None:
        """Perform the actions that the pool policy returns for the current state of the connections."""
        alive = [connection for connection in self._connections if connection.alive]
        pool = [
            ConnectionHealth(
                connection.silence(now), connection.load, connection.outdated, connection.stalled,
                connection.silence_at_recovery, connection.keepalive_wait(now),
            )
            for connection in alive
        ]  # fmt: skip
        decision = evaluate(pool, self._options.keepalive, self._target_size)
        usable_before, self._usable = self._usable, [alive[at] for at in decision.usable]
        self._listeners.update(self._usable)
        for at, connection in enumerate(alive):
            connection.stalled = at in decision.suspect and (connection.stalled or at in decision.stalled)
            if not connection.stalled:
                connection.silence_at_recovery = 0.0
            elif self._usable and not connection.silence_at_recovery:
                connection.silence_at_recovery = pool[at].silence
        for at in decision.abort:
            alive[at].abort(f"silent for {pool[at].silence:.0f} s")
        if self._usable:
            for at in (*decision.suspect, *decision.slow):
                alive[at].fail_over_opens()
        for at in decision.close:
            # Do not close a connection in the call that first finds it unusable: the native engine might have opened
            # a channel on it just before the listeners were updated. A later call closes it.
            if alive[at] not in usable_before:
                alive[at].start_closing()
        if decision.dial:
            self._dialer.wake()
        else:
            self._dialer.last_error = ""
        all_silent = bool(decision.suspect) and not self._usable
        self._report_silence(min(pool[at].silence for at in decision.suspect) if all_silent else None)

    def _report_silence(self, silence: float | None) -> None:
        """Report the tunnel as suspect when all connections are silent, and as up when a connection is usable again.

        Args:
            silence: Seconds for which no connection has received data; None if not all connections are silent.
        """
        if silence is not None and not self._all_silent:
            self._progress(
                TunnelState.SUSPECT, FailureReason.TIMEOUT, f"no data received for at least {silence:.0f} s"
            )
        elif self._all_silent and self._usable:
            self._progress(TunnelState.UP)
        self._all_silent = silence is not None

    def _shrink(self, now: float) -> None:
        spare = choose_spare([each.load for each in self._usable], [each.runner for each in self._usable])
        if len(self._usable) <= self._options.connections.min or spare is None:
            self._idle_since = now
        elif now - self._idle_since > _IDLE_BEFORE_SHRINK:
            self._idle_since = now
            self._target_size = max(self._options.connections.min, len(self._usable) - 1)
            self._usable[spare].outdated = True
            self._apply_policy(now)

    def _missing_count(self) -> int:
        now = time.monotonic()
        suspect = self._options.keepalive.suspect
        current = [
            each for each in self._connections if each.alive and not each.outdated and each.silence(now) < suspect
        ]
        return 0 if self._lost.done() else self._target_size - len(current)
