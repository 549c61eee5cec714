"""The link of an SSH tunnel: several SSH connections to one server, channels placed by load."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from math import inf

from gateway.contracts import Endpoint, Phases, Progress, Stream, TunnelState
from gateway.errors import LinkLostError, ReachError, Reason, TunnelError
from gateway.measure import Histogram, Tap
from gateway.relay.redial import retry_dial
from gateway.relay.socket_pair import socket_pair
from gateway.ssh.options import SshOptions
from gateway.ssh.session import ChannelRelay, Session
from gateway.ssh.upkeep import DOUBT, Standing, judge, place
from gateway.text import one_line

log = logging.getLogger(__name__)

_TICK = 0.5
_PROMPT = 0.4
"""Seconds after which a channel that is not open makes us ask whether its connection is alive."""
_A_LITTLE = 0.01
"""A timer may come a moment before it is due."""
_LATE = 1.0
"""A tick that is this much late, or by half of `suspect`, tells that we slept, not that the others were silent."""
_MUTE = (
    "the SSH server has answered no request for a connection so far: does it allow forwarding, "
    "and does the target's firewall drop packets?"
)
_IDLE_BEFORE_SHRINK = 60.0
_FIRST_RETRY, _LAST_RETRY = 0.25, 10.0
_RETRY_FATAL = 60.0
"""Seconds before another login after a refused one: sshd counts them against us (PerSourcePenalties)."""

Dial = Callable[[], Awaitable[Session]]


class SshLink:
    """A pool of SSH connections; lost when the last of them is.

    Args:
        options: The tunnel's options.
        network_id: See `gateway.contracts.Link`.
        dial: Opens one more connection; raises `ReachError`.
        progress: Told when all connections are silent, and when one is heard again.
    """

    dial_phase = "channel"

    def __init__(self, options: SshOptions, network_id: str, dial: Dial, progress: Progress) -> None:
        self.network_id = network_id
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._dial = dial
        self._progress = progress
        self._sessions: list[Session] = []
        self._usable: list[Session] = []
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._wanted = options.connections.min
        self._due = asyncio.Event()
        self._suspect = False
        self._trouble = ""
        """Why the last attempt to open a further connection failed."""
        self._idle_since = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dialling: set[asyncio.Task[None]] = set()
        self._retry_within = _FIRST_RETRY
        self._renewals = 0
        self._renewed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self, first: Session) -> AsyncIterator["SshLink"]:
        """Keep the pool while the context lasts, starting from one open connection."""
        self._adopt(first)
        keepers = {self._own(self._keep()), self._own(self._dial_missing())}
        try:
            yield self
        finally:
            for keeper in keepers | self._dialling:
                keeper.cancel()
            await asyncio.gather(*(session.close() for session in self._sessions))
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def join(
        self, client: Stream, to: Endpoint, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> ChannelRelay:
        """See `gateway.contracts.Link`."""
        usable = [session for session in self._usable if session.alive]
        if not usable:
            raise LinkLostError
        chosen, grow = place([session.load for session in usable], self._options.connections.max)
        if grow and self._wanted <= len(usable):
            self._wanted = len(usable) + 1
            self._due.set()
        session = usable[chosen]
        doubt = self._loop.call_later(_PROMPT, self._doubt, session)
        try:
            return await session.join(client, to, latency, within, tap)
        finally:
            doubt.cancel()

    def _doubt(self, session: Session) -> None:
        session.doubt()
        # The next tick may come too late for a client that would then be sent to another target.
        self._loop.call_later(DOUBT + _A_LITTLE, lambda: self._look(time.monotonic()))

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """See `gateway.contracts.Link`; counts the phase `channel`."""
        ours, theirs = socket_pair()
        timed = phases or Phases()
        timed.timeout_hint = "" if any(session.answers_opens for session in self._sessions) else _MUTE
        try:
            with timed("channel"):
                relay = await retry_dial(
                    lambda within: self.join(theirs, to, Histogram(), within),
                    timed.on_abandoned,
                    self._options.dial_timeout,
                )
        except BaseException:
            ours.close()
            theirs.close()
            raise
        timed.timeout_hint = ""
        ours.broken = lambda: relay.cut_short
        return ours

    async def lost(self) -> str:
        """See `gateway.contracts.Link`."""
        return await asyncio.shield(self._lost)

    def renew(self) -> None:
        """See `gateway.contracts.Link`: new connections take over, and the old ones drain."""
        for session in self._sessions:
            session.outdated = True
        self._renewals += 1
        self._renewed.set()
        self._due.set()

    def rtt(self) -> float | None:
        """Round trip of the last channel-less request, in seconds."""
        return next((each.round_trip for each in self._usable if each.round_trip is not None), None)

    def details(self) -> dict[str, object]:
        """Connections, channels, cipher and server."""
        alive = [session for session in self._sessions if session.alive]
        now = time.monotonic()
        return {
            "connections": len(alive),
            "suspect_connections": sum(session.silence(now) >= self._options.keepalive.suspect for session in alive),
            "draining_connections": sum(session.outdated for session in alive),
            "channels": sum(session.load for session in alive),
            "cipher": alive[0].cipher() if alive else None,
            "data_plane": alive[0].data_plane() if alive else None,
            "server": alive[0].server_version() if alive else None,
            "pool_error": self._trouble or None,
        }

    def _own(self, job: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(job)
        self._tasks.add(task)
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nobody would keep the pool any more: better to lose it, and open it anew.
            log.error("the pool of %s failed", self._options.endpoint, exc_info=error)
            if not self._lost.done():
                self._lost.set_result(f"{type(error).__name__}: {error}")

    def _adopt(self, session: Session) -> None:
        self._sessions.append(session)
        session.ask()
        self._own(self._watch(session))
        self._look(time.monotonic())

    async def _watch(self, session: Session) -> None:
        why = await session.lost()
        self._sessions.remove(session)
        self._look(time.monotonic())
        self._due.set()
        if not any(other.alive for other in self._sessions) and not self._lost.done():
            self._lost.set_result(why)

    async def _keep(self) -> None:
        """Ask for signs of life, and act on silence."""
        last = time.monotonic()
        tick = min(_TICK, self._options.keepalive.interval)
        late = min(_LATE, self._options.keepalive.suspect / 2)
        while True:
            await asyncio.sleep(tick)
            now = time.monotonic()
            if now - last > tick + late:
                for session in self._sessions:
                    session.forgive(now - last - tick)
            last = now
            for session in self._sessions:
                if session.asked_before(now - self._options.keepalive.interval):
                    session.ask()
            self._look(now)
            self._shrink(now)

    def _look(self, now: float) -> None:
        """Judge the connections, and do what needs no waiting."""
        alive = [session for session in self._sessions if session.alive]
        pool = [
            Standing(
                session.silence(now), session.load, session.outdated, session.stalled, session.stalled_until,
                session.unanswered(now),
            )
            for session in alive
        ]  # fmt: skip
        needs = judge(pool, self._options.keepalive, self._wanted)
        self._usable = [alive[at] for at in needs.usable]
        for at, session in enumerate(alive):
            session.stalled = at in needs.suspect and (session.stalled or at in needs.stalled)
            if not session.stalled:
                session.stalled_until = 0.0
            elif self._usable and not session.stalled_until:
                session.stalled_until = pool[at].silent
        for at in needs.give_up:
            alive[at].abort(f"silent for {pool[at].silent:.0f} s")
        if self._usable:
            for at in (*needs.suspect, *needs.doubtful):
                alive[at].move_on()
        for at in needs.done:
            alive[at].close_soon()
        if needs.dial:
            self._due.set()
        else:
            self._trouble = ""
        self._tell(min(pool[at].silent for at in needs.suspect) if needs.suspect and not self._usable else None)

    def _tell(self, silence: float | None) -> None:
        """Say when all connections have been silent for so many seconds, and when one is heard again."""
        if silence is not None and not self._suspect:
            self._progress(TunnelState.SUSPECT, Reason.TIMEOUT, f"nothing was heard for {silence:.0f} s")
        elif self._suspect and self._usable:
            self._progress(TunnelState.UP)
        self._suspect = silence is not None

    def _shrink(self, now: float) -> None:
        spare = [session for session in self._usable if session.load == 0]
        if len(self._usable) <= self._options.connections.min or not spare:
            self._idle_since = now
        elif now - self._idle_since > _IDLE_BEFORE_SHRINK:
            self._idle_since = now
            self._wanted = max(self._options.connections.min, len(self._usable) - 1)
            spare[-1].close_soon()
            self._look(now)

    async def _dial_missing(self) -> None:
        """Open further connections while some are missing; one that hangs does not hold up the others."""
        while True:
            self._due.clear()
            while self._missing() > len(self._dialling):
                dialling = self._own(self._dial_one())
                self._dialling.add(dialling)
                dialling.add_done_callback(self._dialled)
            await self._due.wait()

    def _dialled(self, dialling: asyncio.Task[None]) -> None:
        self._dialling.discard(dialling)
        self._due.set()

    async def _dial_one(self) -> None:
        """Open one more connection, or wait a while for the next attempt."""
        self._renewed.clear()
        renewals = self._renewals
        try:
            session = await self._dial()
        except Exception as error:
            self._trouble = one_line(str(error))
            foreseen = isinstance(error, (ReachError, OSError))
            # Whatever it is, those connections that stand go on.
            log.log(
                logging.INFO if foreseen else logging.ERROR,
                "a further SSH connection to %s failed: %s", self._options.endpoint, self._trouble,
                exc_info=not foreseen,
            )  # fmt: skip
            fatal = not foreseen or (isinstance(error, TunnelError) and error.fatal)
            pause = _RETRY_FATAL if fatal else random.uniform(0, self._retry_within)  # noqa: S311 - jitter
            self._retry_within = min(self._retry_within * 2, _LAST_RETRY)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._renewed.wait(), pause)
        else:
            self._retry_within, self._trouble = _FIRST_RETRY, ""
            session.outdated = renewals != self._renewals  # it may have logged in with what is no more
            self._adopt(session)

    def _missing(self) -> int:
        now = time.monotonic()
        suspect = self._options.keepalive.suspect
        fresh = [each for each in self._sessions if each.alive and not each.outdated and each.silence(now) < suspect]
        return 0 if self._lost.done() else self._wanted - len(fresh)
