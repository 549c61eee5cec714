"""How many SSH handshakes run at once: few per server, which refuses more, and not too many in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from gateway.contracts import Endpoint

PER_SERVER = 4
"""Well below sshd's MaxStartups, at which it drops connections at random (sshd_config(5))."""
PER_PROCESS = 64
"""A handshake costs milliseconds of the loop's time; one that a dead server holds up costs nothing."""


class Handshakes:
    """The turns of one event loop's handshakes; each ends by its own deadlines."""

    def __init__(self) -> None:
        self.per_server = PER_SERVER
        self._servers: dict[tuple[str, Endpoint], tuple[asyncio.Semaphore, list[None]]] = {}
        self._all = asyncio.Semaphore(PER_PROCESS)

    @asynccontextmanager
    async def turn(self, server: Endpoint, seen_from: str) -> AsyncIterator[None]:
        """Wait for a turn, and keep it while the context lasts.

        Args:
            server: Where it listens.
            seen_from: The network in which that address is meant.
        """
        key = (seen_from, server)
        gate, users = self._servers.setdefault(key, (asyncio.Semaphore(self.per_server), []))
        users.append(None)
        try:
            async with gate, self._all:
                yield
        finally:
            users.pop()
            if not users:
                self._servers.pop(key, None)


_OF_LOOP: WeakKeyDictionary[asyncio.AbstractEventLoop, Handshakes] = WeakKeyDictionary()


def handshakes() -> Handshakes:
    """Those of the running loop."""
    return _OF_LOOP.setdefault(asyncio.get_running_loop(), Handshakes())
