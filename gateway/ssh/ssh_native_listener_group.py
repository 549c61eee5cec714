"""Accepts clients in native engines, and distributes the clients over the SSH connections of a pool."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gateway.contracts.native_listener_interfaces import (
    AcceptedClientHandler,
    NativeListenerRule,
    ShortLivedConnectionTotals,
)
from gateway.relay.native_listener_group import ListenerFactory, NativeListenerGroup
from gateway.ssh.channel_interfaces import SshChannel
from gateway.ssh.flow_control import MAX_RECEIVE_PACKET, MAX_SEND_PACKET
from gateway.ssh.pool_policy import CHANNELS_PER_CONNECTION
from gateway.ssh.pooled_connection import PooledConnection

log = logging.getLogger(__name__)


class SshNativeListenerGroup(NativeListenerGroup):
    """Accepts the clients of one target in native engines, and distributes them over the SSH connections of a pool.

    Args:
        rule: The sockets, the target, and the allowed clients.
        permits: Number of clients that the listener may accept until the gateway permits more.
        connections: The SSH connections to use. All of them must be handled by native engines.
        handler: Receives the events of the listener, and the clients that the native engines do not connect to the
            target.
        owner: Manages the listeners of the pool.

    Raises:
        OSError: The process has no file descriptors left.
    """

    def __init__(
        self,
        rule: NativeListenerRule,
        permits: int,
        connections: Sequence[PooledConnection],
        handler: AcceptedClientHandler,
        owner: "SshNativeListenerManager",
    ) -> None:
        self.connections = list(connections)
        self._owner = owner
        self._overflow_periods = 0
        """The sum of `overflow_periods` over all listeners, at the previous call of `_grow_if_full`."""
        super().__init__(rule, permits, _listener_factories(rule, connections), handler)

    # The listeners of the native engines call the methods below.

    def adopt(self, connection: PooledConnection, channel: SshChannel) -> None:
        """See `gateway.ssh.ssh_native_listener.SshNativeListenerEventHandler`."""
        connection.adopt(channel)
        self._grow_if_full()

    def on_served(self, clients: ShortLivedConnectionTotals) -> None:
        """See `gateway.relay.native_listener.NativeListenerEventHandler`."""
        for each in self.connections:
            each.has_answered_open = True
        self._grow_if_full()
        super().on_served(clients)

    def _grow_if_full(self) -> None:
        """Open another connection if all connections are almost full, or if `overflow_periods` has increased.

        `PooledConnection.load` alone is not enough, because it does not count channels that open and end between two
        calls of this method.
        """
        if not self._active:
            return
        periods = sum(each.overflow_periods for each in self._listeners)
        overflowed, self._overflow_periods = periods > self._overflow_periods, periods
        if overflowed or all(each.load >= CHANNELS_PER_CONNECTION - 1 for each in self.connections):
            self._owner.grow()

    def on_stopped(self) -> None:
        """See `gateway.relay.native_listener.NativeListenerEventHandler`."""
        if self.waiting:
            self._owner.check(self.connections)
        super().on_stopped()

    def on_all_closed(self) -> None:
        """See `NativeListenerGroup.on_all_closed`."""
        super().on_all_closed()
        self._owner.remove(self)


def _listener_factories(rule: NativeListenerRule, connections: Sequence[PooledConnection]) -> list[ListenerFactory]:
    """Return a listener factory for each native engine that handles at least one of `connections`."""
    by_runner: dict[Any, dict[int, PooledConnection]] = {}
    for each in connections:
        if each.native_transport is not None:
            by_runner.setdefault(each.native_transport.runner, {})[each.native_transport.token] = each
    max_packet = MAX_SEND_PACKET if any(each.rekeys_often for each in connections) else MAX_RECEIVE_PACKET
    return [
        partial(transport.make_listener, rule, carriers, max_packet)
        for carriers in by_runner.values()
        if (transport := next(iter(carriers.values())).native_transport) is not None
    ]


class SshNativeListenerManager:
    """Creates the listeners of one pool, and stops them when the usable connections of the pool change.

    Args:
        check_alive: Checks whether a connection is alive.
        grow: Starts to open another connection, if the pool has not reached its maximum size.
    """

    def __init__(self, check_alive: Callable[[PooledConnection], None], grow: Callable[[], object]) -> None:
        self.grow = grow
        self._check_alive = check_alive
        self._listeners: set[SshNativeListenerGroup] = set()

    def check(self, connections: Sequence[PooledConnection]) -> None:
        """Check whether the given connections are alive.

        A listener calls this method if it stops accepting clients while accepted clients still wait for channels.
        """
        for each in connections:
            self._check_alive(each)

    def remove(self, listener: SshNativeListenerGroup) -> None:
        """Remove a listener that is closed."""
        self._listeners.discard(listener)

    def listen(
        self,
        rule: NativeListenerRule,
        permits: int,
        connections: Sequence[PooledConnection],
        handler: AcceptedClientHandler,
    ) -> SshNativeListenerGroup | None:
        """Accept the clients of a target. See `LinkWithNativeListeners.listen`.

        Args:
            rule: The sockets, the target, and the allowed clients.
            permits: Number of clients that the listener may accept until the gateway permits more.
            connections: The connections that can get new channels.
            handler: Receives the events of the listener, and the clients that the native engines do not connect to
                the target.

        Returns:
            The listener; None if the native engines cannot accept the clients. The event loop must then accept them.
        """
        if not connections or any(each.native_transport is None for each in connections):
            return None
        try:
            listener = SshNativeListenerGroup(rule, permits, connections, handler, self)
        except OSError as error:
            log.warning("the native engine cannot accept clients, so the event loop accepts them: %s", error.strerror)
            return None
        self._listeners.add(listener)
        return listener

    def update(self, connections: Sequence[PooledConnection]) -> None:
        """Stop each listener whose connections differ from `connections`. An empty sequence stops all listeners."""
        for each in list(self._listeners):
            if each.connections != list(connections):
                each.stop(failed=False)
