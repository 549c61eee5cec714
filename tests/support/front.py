"""Runs a TCP listener in this process, and connects each client to one target over a link."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.contracts.relay import Relay
from gateway.errors import TargetPathError
from gateway.metric_types import Histogram
from gateway.relay.dial_retry import retry_dial
from gateway.relay.sockets import reset, tune

DIAL_WITHIN = 60.0
"""The maximum time that a client waits for a connection to the target, in seconds."""


class Front:
    """Accepts clients, and connects each client to one target over a link.

    Args:
        link: An open link.
        to: The target on the far side of the link.
        listener: A listening socket in non-blocking mode. The caller closes the socket.
    """

    def __init__(self, link: Link, to: HostPort, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.relays: set[Relay] = set()
        """The open relays."""
        self.endings: Counter[str] = Counter()
        """The number of closed relays by close reason, and the number of failed dials by error message."""
        self.redialed = 0
        """The number of dials that were abandoned, although the target might have accepted the connection."""
        self._link, self._to, self._listener = link, to, listener
        self._joining: set[asyncio.Task[None]] = set()

    @property
    def joining(self) -> int:
        """The number of clients that wait for a connection to the target."""
        return len(self._joining)

    async def run(self) -> None:
        """Accept clients until this task is cancelled. Then reset all connections that wait for the target."""
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
        except TargetPathError as error:
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
    """Run a `Front` on 127.0.0.1 until the block ends. Open relays continue to run after the block.

    Args:
        link: An open link.
        port: The port of the target on the far side.
        send_buffer: The size of the kernel's send buffer for each client, in bytes; 0 means the kernel's default.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        if send_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        front = Front(link, HostPort("127.0.0.1", port), listener)
        task = asyncio.ensure_future(front.run())
        try:
            yield front
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
