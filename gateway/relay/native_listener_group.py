"""Accepts the clients of one target in several native engines, which share the listening sockets."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from gateway.connection_tap import Tap
from gateway.contracts.link import Stream
from gateway.contracts.native_listener_interfaces import (
    AcceptedClientHandler,
    NativeListenerRule,
    ShortLivedConnectionTotals,
)
from gateway.contracts.relay import Relay

_RECALL_AFTER = 2.0
"""Seconds from `withdraw` to `recall`. During this time, the native engines continue to connect waiting clients to
the target. `recall` then passes the clients that are still waiting to the handler, which dials the target for
them."""

ListenerFactory = Callable[[Any, int, Any], Any]
"""Makes one native engine accept clients, and returns the `gateway.relay.native_listener.NativeListener`.

The arguments are a listening socket, the number of permits, and the `NativeListenerEventHandler` that receives the
clients.
"""


class NativeListenerGroup:
    """Groups listeners of several native engines.

    Implements `gateway.contracts.native_listener_interfaces.NativeListenerInterface`.

    Each native engine can have one listener on each socket. Each listener accepts some of the clients. When one
    listener stops accepting, the others stop too. The handler must then accept all further clients itself.

    Args:
        rule: The sockets, the target, and the allowed clients.
        permits: Maximum number of clients to accept. `permit` increases this number.
        factories: One factory for each native engine that accepts clients.
        handler: Receives the events of the group, and the clients that no native engine connected to the target.

    Raises:
        OSError: The process has no file descriptors left.
    """

    def __init__(
        self,
        rule: NativeListenerRule,
        permits: int,
        factories: Sequence[ListenerFactory],
        handler: AcceptedClientHandler,
    ) -> None:
        self._handler = handler
        self._active = True
        """Whether the native engines accept clients."""
        self._listeners: list[Any] = []
        """The open `gateway.relay.native_listener.NativeListener` objects of all native engines and sockets."""
        places = [(make, sock) for make in factories for sock in rule.sockets]
        try:
            for at, (make, sock) in enumerate(places):
                share = permits // len(places) + (at < permits % len(places))
                # Each socket needs at least one listener, even if the listener has no permits. Additional listeners
                # without permits would only delay clients.
                if share or at < len(rule.sockets):
                    self._listeners.append(make(sock, share, self))
        except BaseException:
            self.withdraw()
            raise

    @property
    def waiting(self) -> int:
        """See `gateway.contracts.native_listener_interfaces.NativeListenerInterface`."""
        return sum(each.waiting for each in self._listeners)

    @property
    def clients(self) -> int:
        """See `gateway.contracts.native_listener_interfaces.NativeListenerInterface`."""
        return sum(each.clients for each in self._listeners)

    @property
    def reserved(self) -> int:
        """See `gateway.contracts.native_listener_interfaces.NativeListenerInterface`."""
        return sum(each.reserved for each in self._listeners)

    def permit(self, count: int) -> None:
        """See `gateway.contracts.native_listener_interfaces.NativeListenerInterface`.

        The listener with the fewest unused permits gets the new permits.
        """
        if self._active:
            min(self._listeners, key=lambda each: each.reserved - each.clients).permit(count)

    def withdraw(self) -> None:
        """See `gateway.contracts.native_listener_interfaces.NativeListenerInterface`."""
        if self._active:
            self._active = False
            for each in self._listeners:
                each.withdraw()
            if self.waiting:
                asyncio.get_running_loop().call_later(_RECALL_AFTER, self.recall)

    def recall(self) -> None:
        """See `gateway.contracts.native_listener_interfaces.NativeListenerInterface`."""
        for each in self._listeners:
            each.recall()

    def stop(self, *, failed: bool) -> None:
        """Stop accepting clients, and notify the handler. See `AcceptedClientHandler.on_stopped`."""
        if self._active:
            self.withdraw()
            self._handler.on_stopped(self, failed=failed)

    # The listeners of the native engines call the following methods.

    def on_joined(self, relay: Relay, tap: Tap | None) -> None:
        """See `gateway.relay.native_listener.NativeListenerEventHandler`."""
        self._handler.on_joined(self, relay, tap)

    def on_served(self, clients: ShortLivedConnectionTotals) -> None:
        """See `gateway.relay.native_listener.NativeListenerEventHandler`."""
        self._handler.on_served(self, clients)

    def on_returned(self, client: Stream, seconds: float, *, abandoned: bool) -> None:
        """See `gateway.relay.native_listener.NativeListenerEventHandler`."""
        self._handler.on_returned(self, client, seconds, abandoned=abandoned)

    def on_stopped(self) -> None:
        """See `gateway.relay.native_listener.NativeListenerEventHandler`."""
        self.stop(failed=True)

    def on_closed(self, listener: Any) -> None:
        """See `gateway.relay.native_listener.NativeListenerEventHandler`."""
        self._listeners.remove(listener)
        if not self._listeners and not self._active:
            self.on_all_closed()

    def on_all_closed(self) -> None:
        """Notify the handler that all listeners are closed."""
        self._handler.on_closed(self)
