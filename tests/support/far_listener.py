"""Defines the TCP listeners for tests of relays."""

import asyncio
import socket

from gateway.contracts.config_types import HostPort
from gateway.relay.sockets import reset_on_process_exit, tune
from tests.support.plans import Setup

_SMALL = 16384


_SEGMENT = 1400
"""The maximum segment size of sockets with small buffers, in bytes. The default on the loopback interface is 64 KiB.
With this default, TCP window updates would be delayed by 200 ms."""


class Listener:
    """Two TCP listeners: one with small socket buffers, and one with the kernel's defaults.

    Args:
        near: Whether to set the option of the gateway's listeners that makes the kernel reset accepted connections if
            this process exits.
    """

    def __init__(self, *, near: bool) -> None:
        self._sockets = {small: socket.socket() for small in (True, False)}
        for small, sock in self._sockets.items():
            shrink(sock, small=small)
            sock.bind(("127.0.0.1", 0))
            sock.listen(16)
            tune(sock)
            if near:
                reset_on_process_exit(sock)

    def address(self, setup: Setup) -> HostPort:
        return HostPort(*self._sockets[setup.small].getsockname())

    async def connect(self, setup: Setup) -> socket.socket:
        sock = socket.socket()
        shrink(sock, small=setup.small)
        tune(sock)
        await asyncio.get_running_loop().sock_connect(sock, self.address(setup))
        return sock

    async def accept(self, setup: Setup) -> socket.socket:
        """Accept the next connection, and return its socket in non-blocking mode."""
        sock, _ = await asyncio.get_running_loop().sock_accept(self._sockets[setup.small])
        sock.setblocking(False)
        return sock

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()


def shrink(sock: socket.socket, *, small: bool) -> None:
    """If `small` is true, set small buffers. Sockets that a listening socket accepts inherit these buffers."""
    if small:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL)
