"""Accepts clients in C, in the data plane that carries the SSH connections of a pool."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from gateway.contracts.accepting import AcceptedClientHandler, AcceptRule
from gateway.contracts.link import Stream
from gateway.measurement import Tap
from gateway.ssh.flow_control import MAX_RECEIVE_PACKET, MAX_SEND_PACKET
from gateway.ssh.pool_policy import CHANNELS_PER_CONNECTION
from gateway.ssh.pooled_connection import PooledConnection, SshChannel

log = logging.getLogger(__name__)

_RECALL_AFTER = 2.0
"""Seconds for which accepted clients wait for their channels after the listener has stopped. After this time, the
pool returns the clients to the handler, which dials again, through another tunnel if there is one."""


class PoolListener:
    """Accepts clients for one target; implements `gateway.contracts.accepting.LinkListener`.

    Each engine that carries connections of the pool accepts some of the clients. When one engine stops accepting, the
    others stop too, and the handler must accept all clients itself.

    Args:
        rule: The sockets, the target, and the allowed clients.
        permits: Number of clients to accept until more are permitted.
        connections: The connections that carry the channels. An engine carries each of them.
        handler: Receives the events of the listener, and the clients that are returned.
        owner: The set of all listeners of the pool, which contains this listener until it is closed.

    Raises:
        OSError: The process has no file descriptors left.
    """

    def __init__(
        self,
        rule: AcceptRule,
        permits: int,
        connections: Sequence[PooledConnection],
        handler: AcceptedClientHandler,
        owner: "PoolListeners",
    ) -> None:
        self.connections = list(connections)
        self._handler = handler
        self._owner = owner
        self._active = True
        """Whether the engines accept clients."""
        self._listeners: list[Any] = []
        """One `gateway.ssh.engine_listener.EngineListener` for each engine and socket."""
        by_host: dict[Any, dict[int, PooledConnection]] = {}
        for each in connections:
            if each.engine is not None:
                by_host.setdefault(each.engine.host, {})[each.engine.token] = each
        max_packet = MAX_SEND_PACKET if any(each.rekeys_often for each in connections) else MAX_RECEIVE_PACKET
        places = [(carriers, sock) for carriers in by_host.values() for sock in rule.sockets]
        try:
            for at, (carriers, sock) in enumerate(places):
                share = permits // len(places) + (at < permits % len(places))
                engine = next(iter(carriers.values())).engine
                if engine is not None:
                    self._listeners.append(engine.make_listener(sock, rule, share, carriers, max_packet, self))
        except BaseException:
            self.withdraw()
            raise

    @property
    def waiting(self) -> int:
        """See `gateway.contracts.accepting.LinkListener`."""
        return sum(each.waiting for each in self._listeners)

    @property
    def unused(self) -> int:
        """See `gateway.contracts.accepting.LinkListener`."""
        return sum(each.unused for each in self._listeners)

    def permit(self, count: int) -> None:
        """See `gateway.contracts.accepting.LinkListener`. The engine with the fewest unused permits gets them."""
        if self._active:
            min(self._listeners, key=lambda each: each.unused).permit(count)

    def withdraw(self) -> None:
        """See `gateway.contracts.accepting.LinkListener`."""
        if self._active:
            self._active = False
            for each in self._listeners:
                each.withdraw()
            if self.waiting:
                asyncio.get_running_loop().call_later(_RECALL_AFTER, self.recall)

    def recall(self) -> None:
        """See `gateway.contracts.accepting.LinkListener`."""
        for each in self._listeners:
            each.recall()

    def stop(self, *, failed: bool) -> None:
        """Stop accepting, so that the handler accepts the clients itself; see `AcceptedClientHandler.on_stopped`."""
        if self._active:
            self.withdraw()
            self._handler.on_stopped(self, failed=failed)

    # The listeners of the engines call these methods.

    def on_joined(self, connection: PooledConnection, relay: SshChannel, tap: Tap | None, seconds: float) -> None:
        """See `gateway.ssh.engine_listener.ListenerEvents`."""
        connection.adopt(relay)
        self._handler.on_joined(self, relay, tap, seconds)
        if connection.load >= CHANNELS_PER_CONNECTION - 1:
            self._owner.grow()

    def on_returned(self, client: Stream, seconds: float) -> None:
        """See `gateway.ssh.engine_listener.ListenerEvents`."""
        self._handler.on_returned(self, client, seconds)

    def on_stopped(self) -> None:
        """See `gateway.ssh.engine_listener.ListenerEvents`."""
        if self.waiting:
            self._owner.check(self.connections)
        self.stop(failed=True)

    def on_closed(self, listener: Any) -> None:
        """See `gateway.ssh.engine_listener.ListenerEvents`."""
        self._listeners.remove(listener)
        if not self._listeners and not self._active:
            self._handler.on_closed(self)
            self._owner.remove(self)


class PoolListeners:
    """The listeners of one pool. All stop when the set of connections that can get new channels changes.

    Args:
        check_alive: Checks whether a connection that opens channels slowly is alive.
        grow: Opens another connection if all have many channels.
    """

    def __init__(self, check_alive: Callable[[PooledConnection], None], grow: Callable[[], object]) -> None:
        self.grow = grow
        self._check_alive = check_alive
        self._listeners: set[PoolListener] = set()

    def check(self, connections: Sequence[PooledConnection]) -> None:
        """Check whether connections are alive. Called if a listener has stopped while clients wait for channels."""
        for each in connections:
            self._check_alive(each)

    def remove(self, listener: PoolListener) -> None:
        """Remove a listener that is closed."""
        self._listeners.discard(listener)

    def listen(
        self, rule: AcceptRule, permits: int, connections: Sequence[PooledConnection], handler: AcceptedClientHandler
    ) -> PoolListener | None:
        """Accept clients, and join them to a target; see `gateway.contracts.accepting.AcceptingLink.listen`.

        Args:
            rule: The sockets, the target, and the allowed clients.
            permits: Number of clients to accept until more are permitted.
            connections: The connections that can get new channels.
            handler: Receives the events of the listener, and the clients that are returned.

        Returns:
            The listener; None if clients cannot be accepted, for example because no engine carries a connection.
        """
        if not connections or any(each.engine is None for each in connections):
            return None
        try:
            listener = PoolListener(rule, permits, connections, handler, self)
        except OSError as error:
            log.warning("the data plane cannot accept clients, so the event loop accepts them: %s", error.strerror)
            return None
        self._listeners.add(listener)
        return listener

    def update(self, connections: Sequence[PooledConnection]) -> None:
        """Stop each listener whose connections are not exactly `connections`; an empty sequence stops all."""
        for each in list(self._listeners):
            if each.connections != list(connections):
                each.stop(failed=False)
