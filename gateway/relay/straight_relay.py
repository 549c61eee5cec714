"""Creates the relay between two sockets: in the C engine if possible, otherwise in the event loop."""

import logging
import socket

from gateway._dataplane import is_built
from gateway.contracts.link import Relay
from gateway.measurement import Histogram, Tap
from gateway.relay.socket_pair import PairSocket
from gateway.relay.socket_relay import SocketRelay

log = logging.getLogger(__name__)
_HAS_ENGINE = is_built()

if _HAS_ENGINE:
    from gateway.relay.engine_host import engine_pool
    from gateway.relay.engine_pair import EnginePair


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
    if _HAS_ENGINE and not isinstance(client, PairSocket) and not isinstance(backend, PairSocket):
        try:
            host = engine_pool().host()
        except OSError as error:
            log.warning("the data plane cannot start, so the event loop relays the connection: %s", error.strerror)
        else:
            return EnginePair(host, client, backend, latency, tap)
    return SocketRelay(client, backend, latency, tap)
