"""Selects the C engine (data plane) or the event loop to relay bytes between two sockets, and to accept clients."""

import logging
import socket
from functools import partial
from weakref import WeakSet

from gateway._dataplane import is_built, settings
from gateway.connection_tap import Tap
from gateway.contracts.accepting_link import AcceptedClientHandler, AcceptRule
from gateway.contracts.link import Relay
from gateway.measurement import Histogram
from gateway.relay.engine_listener_group import EngineListenerGroup
from gateway.relay.resolver import numeric_addresses
from gateway.relay.socket_pair import PairSocket
from gateway.relay.socket_relay import SocketRelay

log = logging.getLogger(__name__)
_HAS_ENGINE = is_built()

if _HAS_ENGINE:
    from gateway.relay.dialing_listener import DialingListener
    from gateway.relay.engine_runner import engine_pool
    from gateway.relay.engine_socket_relay import EngineSocketRelay

_listening: WeakSet[EngineListenerGroup] = WeakSet()
"""The listeners of `listen_and_dial` that can be active."""


class _DirectListenerGroup(EngineListenerGroup):
    """Accepts the clients of one target, which the C engines dial without an SSH channel."""

    def on_stopped(self) -> None:
        """Stop accepting, and return the clients whose dials are not complete.

        If a dial takes long, the handler dials again. It limits the duration of this dial if another path is left.
        """
        super().on_stopped()
        self.recall()


def use_engine(*, enabled: bool) -> None:
    """Set whether new connections that no SSH channel carries use the C engine. Existing ones are not affected."""
    settings.relays_sockets = enabled
    if not enabled:
        for each in list(_listening):
            each.stop(failed=False)


def relay_sockets(client: socket.socket, backend: socket.socket, latency: Histogram, tap: Tap | None = None) -> Relay:
    """Relay bytes between two sockets, until both directions have ended.

    The C engine relays between sockets of the kernel. A `PairSocket` needs the relay in the event loop: from the end
    of its stream alone, the engine cannot recognize whether the tunneled stream was reset.

    Args:
        client: The accepted socket, non-blocking. The relay owns it.
        backend: The dialed socket, non-blocking. The relay owns it.
        latency: Records the response latencies.
        tap: Observes the bytes until the tap is finished.
    """
    enabled = _HAS_ENGINE and settings.relays_sockets
    if enabled and not isinstance(client, PairSocket) and not isinstance(backend, PairSocket):
        try:
            runner = engine_pool().runner()
        except OSError as error:
            log.warning("the data plane cannot start, so the event loop relays the connection: %s", error.strerror)
        else:
            relay = EngineSocketRelay(runner, latency, tap)
            relay.start(client, backend)
            return relay
    return SocketRelay(client, backend, latency, tap)


def listen_and_dial(rule: AcceptRule, permits: int, handler: AcceptedClientHandler) -> EngineListenerGroup | None:
    """Accept clients in the C engine, and dial the target for each client.

    Implements `listen` of `gateway.contracts.accepting_link.AcceptingLink`.

    If the target is a host name, the event loop must accept the clients: it resolves the name for each of them.
    """
    if not (_HAS_ENGINE and settings.relays_sockets and numeric_addresses(rule.to)):
        return None
    try:
        engines = [partial(DialingListener, runner, rule) for runner in engine_pool().all_runners()]
        listener = _DirectListenerGroup(rule, permits, engines, handler)
    except OSError as error:
        log.warning("the data plane cannot accept clients, so the event loop accepts them: %s", error.strerror)
        return None
    _listening.add(listener)
    return listener
