"""Chooses local ports for programs. A port is reserved until its program has exited.

A program listens some time after its port was chosen. Meanwhile the kernel can return the same port again.
"""

import socket

_LOOPBACK = "127.0.0.1"
_reserved: set[int] = set()


def reserve_port() -> int:
    """Reserve a TCP port of the loopback interface that no socket uses. The caller calls `release_port`.

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
    """Release a port, if it is reserved."""
    _reserved.discard(port)
