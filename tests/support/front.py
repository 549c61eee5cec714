"""A listener in this process whose clients are joined to one target over a link."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator

from gateway.contracts.link import Link, Relay
from gateway.contracts.values import Endpoint
from gateway.errors import ReachError
from gateway.measure import Histogram
from gateway.relay.redial import retry_dial
from gateway.relay.sockets import reset, tune

DIAL_WITHIN = 60.0
"""Seconds that a client waits for its channel."""


class Front:
    """A listener that joins its clients to `to` over `link`; see `fronting`.

    Args:
        link: A live link.
        to: The target on the far side of the link.
        listener: A bound, listening, non-blocking socket; the caller closes it.
    """

    def __init__(self, link: Link, to: Endpoint, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.relays: set[Relay] = set()
        """Relays that have not ended."""
        self.endings: Counter[str] = Counter()
        """Number of ended relays by close reason, and of clients without a relay by error reason."""
        self.redialed = 0
        """Number of channel opens that were repeated because their connection did not respond."""
        self._link, self._to, self._listener = link, to, listener
        self._joining: set[asyncio.Task[None]] = set()

    @property
    def joining(self) -> int:
        """The number of clients that wait for their channel."""
        return len(self._joining)

    async def run(self) -> None:
        """Accept clients until this task is cancelled; then reset the clients that wait for a channel."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                client, _ = await loop.sock_accept(self._listener)
                tune(client)
                task = asyncio.ensure_future(self._join(client))
                self._joining.add(task)
                task.add_done_callback(self._joining.discard)
        finally:
            for task in self._joining:
                task.cancel()
            await asyncio.gather(*self._joining, return_exceptions=True)

    async def _join(self, client: socket.socket) -> None:
        try:
            relay = await retry_dial(
                lambda within: self._link.join(client, self._to, Histogram(), within), self._given_up, DIAL_WITHIN
            )
        except ReachError as error:
            self.endings[f"unreachable: {error}"] += 1
            reset(client)
            return
        except BaseException:
            reset(client)
            raise
        self.relays.add(relay)
        relay.ended.add_done_callback(lambda ended: self._ended(relay, str(ended.result())))

    def _given_up(self) -> None:
        self.redialed += 1

    def _ended(self, relay: Relay, ending: str) -> None:
        self.relays.discard(relay)
        self.endings[ending] += 1


@contextlib.asynccontextmanager
async def fronting(link: Link, port: int, send_buffer: int = 0) -> AsyncIterator[Front]:
    """Run a front on 127.0.0.1 that joins clients to `port` on the far side; open relays outlive the front.

    Args:
        link: A live link.
        port: The port of the target on the far side.
        send_buffer: Size of the kernel's buffer for a client that does not read, in bytes; 0: the kernel's default.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        if send_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        front = Front(link, Endpoint("127.0.0.1", port), listener)
        task = asyncio.ensure_future(front.run())
        try:
            yield front
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
