"""Keeps one tunnel open: the state machine between a configuration's `tunnels:` and the links others use.

::

    idle → waiting (for its via) → connecting → authenticating → up ⇄ suspect → backoff → connecting …
                                        └ host key, login refused → quarantined → connecting …

While it is suspect its link is withheld: users wait, as they do while it is down. Once it is no longer wanted and
only drains, it says draining.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from gateway.cancellation import is_being_cancelled
from gateway.contracts import Link, Tunnel, TunnelState
from gateway.errors import ReachError, Reason, TunnelError
from gateway.measure import Histogram, Tally
from gateway.supervision.backoff import QUARANTINE, RECONNECT, Backoff
from gateway.text import one_line

log = logging.getLogger(__name__)


class Uplink:
    """A tunnel's lifetime; a `gateway.contracts.Unit`.

    Args:
        name: The tunnel's name in the configuration.
        tunnel: What to keep open.
        via: The uplink it goes through; None for one that needs none.
        quiet: Do not log its edges.
        traffic: What it is for, where the tunnel is opened more than once; for the log.
        after: Waits until what must not be open at the same time is closed.
    """

    def __init__(
        self,
        name: str,
        tunnel: Tunnel,
        via: "Uplink | None",
        *,
        quiet: bool = False,
        traffic: str = "",
        after: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.tunnel = tunnel
        self.via = via
        self.tunnel_name = name if via is not None else None
        """Its name; None: it is the straight way, which every tunnel begins with."""
        self.state = TunnelState.IDLE
        self.reason: Reason | None = None
        self.detail = ""
        self.since = time.time()
        self.connects = 0
        self.failures: Tally = Tally()
        self.channel_open = Histogram()
        self.link: Link | None = None
        self.settled = asyncio.Event()
        """Set once the first attempt succeeded or failed."""
        self.watchers: list[Callable[[], None]] = []
        """Called at each change that users of the link should hear of."""
        self._has_link = asyncio.Event()
        self._quiet = quiet
        self._traffic = traffic
        self._told: tuple[TunnelState, Reason | None] | None = None
        self._hurry = asyncio.Event()
        self.open: Link | None = None
        """The open link, offered to users or withheld."""
        self._draining = False
        self._after = after

    async def run(self, ready: Callable[[], None]) -> None:
        """Open the tunnel, and again whenever it is lost, until cancelled."""
        reconnect, quarantine = Backoff(RECONNECT), Backoff(QUARANTINE)
        try:
            if self._after is not None:
                await self._after()
            while True:
                via = await self._wait_for_via()
                self._hurry.clear()  # this attempt is what was asked for
                try:
                    lasted, why = await self._hold(via, ready)
                    reconnect.succeeded(lasted)
                    quarantine.attempts = 0
                    raise why
                except ReachError as error:
                    if is_being_cancelled():
                        raise asyncio.CancelledError from error  # closing the tunnel failed, and it was to end
                    fatal = isinstance(error, TunnelError) and error.fatal
                    self.failures[error.reason] += 1
                    self._become(
                        TunnelState.QUARANTINED if fatal else TunnelState.BACKOFF, error.reason, error.detail
                    )
                    await self._pause((quarantine if fatal else reconnect).next())
        finally:
            self.open = None
            self._offer(None)
            self._become(TunnelState.STOPPED)

    async def wait_link(self) -> Link:
        """Wait until the tunnel is open; the caller sets the deadline."""
        while self.link is None:
            await self._has_link.wait()
        return self.link

    def describe(self) -> str:
        """The state and its reason, in one line."""
        if self.state is TunnelState.WAITING and self.via is not None:
            return self.via.describe()  # the root of it, as it is now
        told = f": {self.detail}" if self.detail else ""
        return f"tunnel {self.name} is {self.state}{told}"

    def renew(self) -> None:
        """Its keys or certificates changed: use them from now on, without ending what runs."""
        if self.open is not None:
            log.info("tunnel renews its connections", extra={"tunnel": self.name})
            self.open.renew()
        else:
            self._hurry.set()

    def retry(self) -> None:
        """Its certificates were renewed: each login reads them, so only an attempt that waits has to be made now."""
        if self.open is None:
            self._hurry.set()

    def drain(self) -> None:
        """It is not wanted any more, and stays only for the clients it has."""
        self._draining = True
        if self.state is TunnelState.UP:
            self._become(TunnelState.DRAINING)

    def reconnect(self) -> None:
        """Try now rather than when the backoff ends; an open tunnel is closed and opened anew."""
        self._hurry.set()

    async def _wait_for_via(self) -> Link | None:
        if self.via is None:
            return None
        if self.via.link is None:
            await self.via.settled.wait()
            if self.via.link is None:
                self._become(TunnelState.WAITING, Reason.TUNNEL, self.via.describe())
        return await self.via.wait_link()

    async def _hold(self, via: Link | None, ready: Callable[[], None]) -> tuple[float, TunnelError]:
        """Open the tunnel and keep it until it is lost; says how many seconds it was open, and why it is not."""
        async with AsyncExitStack() as stack:
            # The direct tunnel is the only one without a via, and does not look at it.
            link = await stack.enter_async_context(self.tunnel.open(via, self._progress))  # type: ignore[arg-type]
            opened = time.monotonic()
            self._hurry.clear()
            self.connects += 1
            self.open = link
            self._progress(TunnelState.UP)
            ready()
            try:
                why = await self._lost(link)
            finally:
                self.open = None
                self._offer(None)
        return time.monotonic() - opened, TunnelError(Reason.RESET, why)

    def _progress(self, state: TunnelState, reason: Reason | None = None, detail: str = "") -> None:
        """What the tunnel says of itself, while it opens and while it is open."""
        if self.open is not None:
            self._offer(self.open if state is TunnelState.UP else None)
        if state is TunnelState.UP and self._draining:
            state = TunnelState.DRAINING
        self._become(state, reason, detail)

    async def _lost(self, link: Link) -> str:
        lost = asyncio.ensure_future(link.lost())
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({lost, hurry}, return_when=asyncio.FIRST_COMPLETED)
            return lost.result() if lost.done() else "reconnect was asked for"
        finally:
            lost.cancel()
            hurry.cancel()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return

    def _offer(self, link: Link | None) -> None:
        self.link = link
        if link is None:
            self._has_link.clear()
        else:
            self._has_link.set()

    def _become(self, state: TunnelState, reason: Reason | None = None, detail: str = "") -> None:
        """The only place where the state changes; logs each edge once.

        An attempt keeps the reason of the failure before it, and "since" tells how long the tunnel has been
        up or not, whatever it is trying meanwhile.
        """
        if _standing(state) is not _standing(self.state):
            self.since = time.time()
        self.state = state
        if state in _ATTEMPTING:
            return
        self.reason, self.detail = reason, one_line(detail)
        self._tell()
        self.settled.set()
        for watcher in self.watchers.copy():
            watcher()

    def _tell(self) -> None:
        told = (self.state, self.reason)
        if self._quiet or told == self._told:
            return
        self._told = told
        extra = {"tunnel": self.name, "far_side": self.tunnel.far_side}
        if self._traffic:
            extra["traffic"] = self._traffic
        if self.state is TunnelState.UP:
            log.info("tunnel up", extra=extra)
        elif self.state is TunnelState.QUARANTINED:
            log.error("tunnel quarantined", extra={**extra, "reason": str(self.reason), "detail": self.detail})
        elif self.state is TunnelState.SUSPECT:
            log.warning("tunnel suspect", extra={**extra, "reason": str(self.reason), "detail": self.detail})
        elif self.state is TunnelState.BACKOFF:
            log.warning("tunnel down", extra={**extra, "reason": str(self.reason), "detail": self.detail})


_ATTEMPTING = {TunnelState.RESOLVING, TunnelState.CONNECTING, TunnelState.AUTHENTICATING}


def _standing(state: TunnelState) -> TunnelState:
    """The state, with all that is neither up nor final taken together."""
    final = {TunnelState.UP, TunnelState.DRAINING, TunnelState.QUARANTINED, TunnelState.STOPPED}
    return state if state in final else TunnelState.BACKOFF
