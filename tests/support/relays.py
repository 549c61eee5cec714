"""Creates relays between sockets of TCP connections, in the event loop or in the native engine."""

import socket
from collections.abc import Callable

from gateway.connection_tap import Tap
from gateway.contracts.relay import Relay
from gateway.metric_types import Histogram
from gateway.relay.native_engine_selection import relay_sockets
from gateway.relay.socket_relay import SocketRelay
from gateway.relay.sockets import tune
from tests.support.requirements import need_data_plane

Maker = Callable[[socket.socket, socket.socket, Histogram, Tap | None], Relay]

ENGINES = ("event loop", "native engine")


def maker(engine: str) -> Maker:
    """Return a function that creates relays in `engine`, which is one of `ENGINES`."""
    if engine == "event loop":
        return SocketRelay
    need_data_plane()
    return relay_sockets


async def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return both sockets of a TCP connection over the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    tune(near)
    tune(far)
    return near, far
