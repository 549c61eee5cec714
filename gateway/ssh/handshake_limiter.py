"""Limits how many SSH handshakes run at the same time: per server, and per event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import RemoteNetworkId
from gateway.relay.per_loop_instances import per_loop

_PER_SERVER = 4
"""Maximum number of concurrent handshakes with one server. The limit is well below sshd's MaxStartups, above which
sshd drops connections at random (sshd_config(5))."""
_PER_LOOP = 64
"""Maximum number of concurrent handshakes in one event loop. The limit exists because the computations of each
handshake block the loop for milliseconds."""


class HandshakeLimiter:
    """Limits the concurrent SSH handshakes of one event loop.

    The caller must give each handshake a deadline. Without a deadline, the handshake with a server that does not
    respond would occupy its slot permanently.
    """

    def __init__(self) -> None:
        self._servers: dict[tuple[RemoteNetworkId, HostPort], tuple[asyncio.Semaphore, list[None]]] = {}
        self._all = asyncio.Semaphore(_PER_LOOP)

    @asynccontextmanager
    async def slot(self, server: HostPort, network: RemoteNetworkId) -> AsyncIterator[None]:
        """Wait for a slot, and occupy the slot until the context exits.

        Args:
            server: The server's address.
            network: The network in which the server's address is valid.
        """
        key = (network, server)
        semaphore, users = self._servers.setdefault(key, (asyncio.Semaphore(_PER_SERVER), []))
        users.append(None)
        try:
            async with semaphore, self._all:
                yield
        finally:
            users.pop()
            if not users:
                self._servers.pop(key, None)


@per_loop
def handshake_limiter(loop: asyncio.AbstractEventLoop) -> HandshakeLimiter:
    """Return the limiter of the running event loop.

    Call this function without arguments: `per_loop` passes `loop` on the first call in each loop, and then returns
    the same limiter for all calls in that loop.
    """
    del loop
    return HandshakeLimiter()
