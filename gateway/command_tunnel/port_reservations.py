"""Chooses local ports for programs. A port is reserved until its program has exited.

Without a reservation, the kernel could assign a port to a second program before the first program listens on it.
"""

import socket

_LOOPBACK = "127.0.0.1"
_reserved: set[int] = set()


def reserve_port() -> int:
    """Reserve and return an unused TCP port on the loopback interface. The caller must call `release_port`.

    Raises:
        OSError: There is no free port or no free file descriptor.
    """
    while True:
        with socket.create_server((_LOOPBACK, 0)) as listener:
            port = int(listener.getsockname()[1])
        if port not in _reserved:
            _reserved.add(port)
            return port


def release_port(port: int) -> None:
    """End the reservation of a port. Does nothing if the port is not reserved."""
    _reserved.discard(port)
