"""The link of an SSH tunnel: several SSH connections to one server, channels placed by load."""

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf

from gateway.contracts import Endpoint, Phases, Relay, Stream
from gateway.errors import LinkLostError, ReachError
from gateway.measure import Histogram
from gateway.relay.sockets import tune
from gateway.ssh.options import SshOptions
from gateway.ssh.session import Session

log = logging.getLogger(__name__)

CHANNELS_PER_CONNECTION = 64
"""sshd polls all channels of a connection at every turn, so latency grows with them."""
_IDLE_BEFORE_SHRINK = 60.0
_RETRY = (0.25, 30.0)

Dial = Callable[[], Awaitable[Session]]


def place(loads: list[int], most: int) -> tuple[int, bool]:
    """Which connection takes the next channel, and whether the pool should grow.

    Args:
        loads: Channels of each live connection, at least one.
        most: How many connections there may be.
    """
    chosen = min(range(len(loads)), key=loads.__getitem__)
    return chosen, loads[chosen] >= CHANNELS_PER_CONNECTION - 1 and len(loads) < most


class SshLink:
    """A pool of SSH connections; lost when the last of them is.

    Args:
        options: The tunnel's options.
        dial: Opens one more connection; raises `ReachError`.
    """

    dial_phase = "channel"

    def __init__(self, options: SshOptions, dial: Dial) -> None:
        self._options = options
        self._dial = dial
        self._sessions: list[Session] = []
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._wanted = options.connections.min
        self._grow = asyncio.Event()
        self._rtt: float | None = None

    @contextlib.asynccontextmanager
    async def running(self, first: Session) -> AsyncIterator["SshLink"]:
        """Keep the pool while the context lasts, starting from one open connection."""
        watches: set[asyncio.Task[None]] = set()
        self._adopt(first, watches)
        keeper = asyncio.ensure_future(self._keep(watches))
        try:
            yield self
        finally:
            keeper.cancel()
            await asyncio.gather(*(session.close() for session in self._sessions))
            for watch in watches:
                watch.cancel()
            await asyncio.gather(keeper, *watches, return_exceptions=True)

    async def join(self, client: Stream, to: Endpoint, latency: Histogram, within: float = inf) -> Relay:
        """See `gateway.contracts.Link`."""
        alive = [session for session in self._sessions if session.alive]
        if not alive:
            raise LinkLostError
        chosen, grow = place([session.load for session in alive], self._options.connections.max)
        if grow and self._wanted <= len(alive):
            self._wanted = len(alive) + 1
            self._grow.set()
        return await alive[chosen].join(client, to, latency, within)

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """See `gateway.contracts.Link`; counts the phase `channel`."""
        ours, theirs = socket.socketpair()
        tune(ours)
        tune(theirs)
        try:
            with (phases or Phases())("channel"):
                await self.join(theirs, to, Histogram())
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return ours

    async def lost(self) -> str:
        """See `gateway.contracts.Link`."""
        return await asyncio.shield(self._lost)

    def rtt(self) -> float | None:
        """Round trip of the last channel-less request, in seconds."""
        return self._rtt

    def details(self) -> dict[str, object]:
        """Connections, channels, cipher and server."""
        alive = [session for session in self._sessions if session.alive]
        return {
            "connections": len(alive),
            "channels": sum(session.load for session in alive),
            "cipher": alive[0].cipher() if alive else None,
            "data_plane": ("own" if alive[0].plane else "asyncssh") if alive else None,
            "server": alive[0].server_version() if alive else None,
        }

    def _adopt(self, session: Session, watches: set[asyncio.Task[None]]) -> None:
        self._sessions.append(session)
        watch = asyncio.ensure_future(self._watch(session))
        watches.add(watch)
        watch.add_done_callback(watches.discard)

    async def _watch(self, session: Session) -> None:
        why = await session.lost()
        self._sessions.remove(session)
        self._grow.set()
        if not any(other.alive for other in self._sessions) and not self._lost.done():
            self._lost.set_result(why)

    async def _keep(self, watches: set[asyncio.Task[None]]) -> None:
        """Open what is missing, close what idles, measure the round trip."""
        pause = _RETRY[0]
        idle_since = time.monotonic()
        while not self._lost.done():
            self._grow.clear()
            alive = [session for session in self._sessions if session.alive]
            if alive and len(alive) < self._wanted:
                try:
                    self._adopt(await self._dial(), watches)
                    pause = _RETRY[0]
                except (ReachError, OSError) as error:
                    log.info("a further SSH connection to %s failed: %s", self._options.endpoint, error)
                    await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - jitter, not a secret
                    pause = min(pause * 2, _RETRY[1])
                continue
            spare = [session for session in alive if session.load == 0]
            if len(alive) <= self._options.connections.min or not spare:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > _IDLE_BEFORE_SHRINK:
                self._wanted = max(self._options.connections.min, len(alive) - 1)
                await spare[-1].close()
                continue
            if alive:
                self._rtt = (await asyncio.gather(*(session.ping() for session in alive)))[0] or self._rtt
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._grow.wait(), self._options.keepalive.interval)
