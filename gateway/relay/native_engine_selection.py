"""Selects whether the native engine or the event loop accepts clients and relays bytes on links without SSH."""

import logging
import socket
from functools import partial
from weakref import WeakSet

from gateway._dataplane import is_built, settings
from gateway.connection_tap import Tap
from gateway.contracts.native_listener_interfaces import AcceptedClientHandler, NativeListenerRule
from gateway.contracts.relay import Relay
from gateway.metric_types import Histogram
from gateway.relay.native_listener_group import NativeListenerGroup
from gateway.relay.resolver import numeric_addresses
from gateway.relay.socket_pair import SocketPairEnd
from gateway.relay.socket_relay import SocketRelay

log = logging.getLogger(__name__)
_HAS_ENGINE = is_built()

if _HAS_ENGINE:
    from gateway.relay.direct_native_listener import DirectNativeListener
    from gateway.relay.native_engine_runner import native_engines
    from gateway.relay.native_socket_relay import NativeSocketRelay

_listening: WeakSet[NativeListenerGroup] = WeakSet()
"""The listeners that `listen_and_dial` has created."""


class _DirectNativeListenerGroup(NativeListenerGroup):
    """Accepts clients for one target. The native engines dial the target directly, without an SSH channel."""

    def on_stopped(self) -> None:
        """Stop accepting clients. Pass each waiting client to the handler, which then dials the target."""
        super().on_stopped()
        self.recall()


def use_native_engine(*, enabled: bool) -> None:
    """Set whether the native engine relays new connections that do not use an SSH channel.

    If `enabled` is false, also stop the listeners of `listen_and_dial`. The event loop then accepts their clients.
    """
    settings.relays_sockets = enabled
    if not enabled:
        for each in list(_listening):
            each.stop(failed=False)


def relay_sockets(client: socket.socket, backend: socket.socket, latency: Histogram, tap: Tap | None = None) -> Relay:
    """Relay bytes between two sockets, until both directions have ended.

    The native engine relays the bytes if it is enabled (`use_native_engine`) and can start. Otherwise, or if one of
    the sockets is a `SocketPairEnd`, the event loop relays them: the native engine cannot detect whether the stream
    behind a `SocketPairEnd` was reset.

    Args:
        client: The accepted socket, non-blocking. The relay owns it.
        backend: The dialed socket, non-blocking. The relay owns it.
        latency: Records the response latencies.
        tap: Observes the relayed bytes until `tap.finished` is true. None if the connection has no tap.
    """
    enabled = _HAS_ENGINE and settings.relays_sockets
    if enabled and not isinstance(client, SocketPairEnd) and not isinstance(backend, SocketPairEnd):
        try:
            runner = native_engines().runner()
        except OSError as error:
            log.warning("the native engine cannot start, so the event loop relays the connection: %s", error.strerror)
        else:
            relay = NativeSocketRelay(runner, latency, tap)
            relay.start(client, backend)
            return relay
    return SocketRelay(client, backend, latency, tap)


def listen_and_dial(
    rule: NativeListenerRule, permits: int, handler: AcceptedClientHandler
) -> NativeListenerGroup | None:
    """Accept clients in the native engine, and dial the target for each client.

    Implements `LinkWithNativeListeners.listen`.

    Returns:
        The listener. None if the event loop must accept the clients: the native engine is disabled, it cannot accept
        clients, or the target is a host name, which it cannot resolve.
    """
    if not (_HAS_ENGINE and settings.relays_sockets and numeric_addresses(rule.to)):
        return None
    try:
        factories = [partial(DirectNativeListener, runner, rule) for runner in native_engines().all_runners()]
        listener = _DirectNativeListenerGroup(rule, permits, factories, handler)
    except OSError as error:
        log.warning("the native engine cannot accept clients, so the event loop accepts them: %s", error.strerror)
        return None
    _listening.add(listener)
    return listener
