"""Keeps one tunnel open: connects, reconnects with backoff, and provides the current link.

::

    idle → waiting → connecting → authenticating → up ⇄ suspect → backoff → connecting …
                          └ host key mismatch, authentication failure → quarantined → connecting …

Waiting: none of the tunnel's outer tunnels is open. Suspect: the tunnel is open, but does not respond, so the uplink
provides no link, and new clients wait. Draining: the tunnel was removed from the configuration, and stays open until
its clients have disconnected.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from gateway.backoff import QUARANTINE, RECONNECT, Backoff
from gateway.contracts.link import Link
from gateway.contracts.states import TrafficClass, TunnelState
from gateway.contracts.tunnel import Tunnel, TunnelOpenResult
from gateway.errors import FailureReason, TargetPathError, TunnelError
from gateway.metric_types import Histogram, Tally
from gateway.supervision.link_through_outer_tunnels import LinkThroughOuterTunnels
from gateway.supervision.tunnel_state_describer import describe_all
from gateway.supervision.tunnel_state_log import TunnelStateLog
from gateway.task_cancellation import is_being_cancelled
from gateway.text_sanitizer import one_line

log = logging.getLogger(__name__)


class Uplink:
    """Keeps one tunnel open; implements `SupervisedComponent`.

    Args:
        name: The tunnel's name in the configuration.
        tunnel: The tunnel.
        vias: The uplinks of the outer tunnels, in the order in which the gateway tries to connect through them. Empty
            if this uplink provides the direct link.
        quiet: Whether to omit state changes from the log.
        traffic_class: The traffic class of the uplink's lane. The log contains it if it is `bulk`.
        after: Waits until the old tunnels with the same identity, such as a key, are closed, because some servers
            permit only one connection with the same identity at a time. None if the tunnel can open immediately.
    """

    def __init__(
        self,
        name: str,
        tunnel: Tunnel,
        vias: "Sequence[Uplink]" = (),
        *,
        quiet: bool = False,
        traffic_class: TrafficClass = TrafficClass.INTERACTIVE,
        after: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.name = name
        self.tunnel = tunnel
        self.vias = vias
        self.tunnel_name = name if vias else None
        """The tunnel's name; None if this uplink provides the direct link."""
        self.state = TunnelState.IDLE
        self.reason: FailureReason | None = None
        self.detail = ""
        self.since = time.time()
        self.connects = 0
        self.failures: Tally = Tally()
        self.channel_open = Histogram()
        self.link: Link | None = None
        self.settled = asyncio.Event()
        """Set when the first attempt to open the tunnel has succeeded or failed, or must wait for an outer tunnel."""
        self.watchers: list[Callable[[], None]] = []
        """Callbacks for changes of this uplink's state. They are not called during an attempt to open the tunnel."""
        self._has_link = asyncio.Event()
        self._log = None if quiet else TunnelStateLog(name, tunnel.far_side, traffic_class)
        self._retry_now = asyncio.Event()
        self.opened: TunnelOpenResult | None = None
        """The open tunnel; None if the tunnel is not open. A suspect tunnel also counts as open."""
        self._draining = False
        self._after = after
        self._failover: LinkThroughOuterTunnels | None = None
        """The link that tries the outer tunnels in order; None if there is at most one outer tunnel."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Open the tunnel, and reopen it each time it is lost, until cancelled.

        Args:
            ready: Called each time the tunnel has opened. Only the first call has an effect.
        """
        reconnect, quarantine = Backoff(RECONNECT), Backoff(QUARANTINE)
        try:
            if self._after is not None:
                await self._after()
            while True:
                via = await self._wait_for_via()
                self._retry_now.clear()  # discard earlier requests to retry, because an attempt starts now
                try:
                    lasted, cause = await self._attempt(via, ready)
                    reconnect.succeeded(lasted)
                    quarantine.attempts = 0
                    raise cause
                except TargetPathError as error:
                    if is_being_cancelled():
                        # The uplink was cancelled, and closing the tunnel failed. Do not retry.
                        raise asyncio.CancelledError from error
                    fatal = isinstance(error, TunnelError) and error.fatal
                    self.failures[error.reason] += 1
                    self._become(
                        TunnelState.QUARANTINED if fatal else TunnelState.BACKOFF, error.reason, error.detail
                    )
                    await self._wait_to_retry((quarantine if fatal else reconnect).next())
        finally:
            self.opened = None
            self._publish(None)
            self._become(TunnelState.STOPPED)

    async def wait_link(self) -> Link:
        """Wait until a link is available, and return the link. The caller must limit the time."""
        while self.link is None:
            await self._has_link.wait()
        return self.link

    def describe(self) -> str:
        """Return one line with the state of the tunnel and the cause of that state."""
        if self.state is TunnelState.WAITING:
            return describe_all(self.vias)  # this tunnel waits because no outer tunnel is open
        down = self.state in (*_ATTEMPTING, TunnelState.BACKOFF)
        state = "down" if down else str(self.state)
        detail = f": {self.detail}" if self.detail else ""
        return f"tunnel {self.name} is {state}{detail}"

    @property
    def via_in_use(self) -> str | None:
        """The name of the outer tunnel in use.

        None if there is no outer tunnel, or if the uplink's own tunnel is not open.
        """
        if self.opened is None or not self.vias:
            return None
        used = self._failover.used if self._failover is not None else self.vias[0]
        return used.tunnel_name if used is not None else None

    def renew(self) -> None:
        """Make the open tunnel use credentials that have changed on disk.

        Client connections remain open, unless a VPN must reopen to use a changed file.

        If the tunnel is not open, cancel any attempt in progress, and try again immediately.
        """
        if self.opened is not None:
            log.info("credentials of the tunnel have changed: reloading them", extra={"tunnel": self.name})
            self.opened.renew()
        else:
            self._retry_now.set()

    def retry(self) -> None:
        """If the tunnel is not open, try to open it immediately; otherwise, do nothing.

        Call this method after a certificate was renewed with the same key. An open tunnel does not need the new
        certificate until its next login.
        """
        if self.opened is None:
            self._retry_now.set()

    def drain(self) -> None:
        """Report the state `draining` instead of `up` from now on, because no new clients will use the tunnel."""
        self._draining = True
        if self.state is TunnelState.UP:
            self._become(TunnelState.DRAINING)

    def reconnect(self) -> None:
        """Close the tunnel, or end the attempt to open it, and try to open it immediately."""
        self._retry_now.set()

    async def _wait_for_via(self) -> Link | None:
        """Wait until at least one outer tunnel is open, and return the link to dial through.

        Return None if this uplink provides the direct link.
        """
        if not self.vias:
            return None
        opened = [asyncio.ensure_future(each.wait_link()) for each in self.vias]
        settled = asyncio.ensure_future(self._wait_vias_settled())
        try:
            await asyncio.wait({*opened, settled}, return_when=asyncio.FIRST_COMPLETED)
            if all(each.link is None for each in self.vias):
                self._become(TunnelState.WAITING, FailureReason.TUNNEL, describe_all(self.vias))
            done, _ = await asyncio.wait(opened, return_when=asyncio.FIRST_COMPLETED)
        finally:
            settled.cancel()
            for each in opened:
                each.cancel()
        link = next(iter(done)).result()
        self._failover = LinkThroughOuterTunnels(self.vias, link.network) if len(self.vias) > 1 else None
        return self._failover or link

    async def _wait_vias_settled(self) -> None:
        for each in self.vias:
            await each.settled.wait()

    async def _attempt(self, via: Link | None, ready: Callable[[], None]) -> tuple[float, TunnelError]:
        """Open the tunnel, and wait until it is lost; see `_keep_open`.

        An attempt to open a VPN can take minutes, and does not read its files again if they change in the meantime.
        Therefore, a request to reconnect or to retry cancels an attempt that has not opened the tunnel yet. A request
        does not interrupt the closing of a tunnel that was open.

        Raises:
            TargetPathError: The tunnel cannot be opened.
        """
        attempt = asyncio.create_task(self._keep_open(via, ready), name=f"attempt to open the tunnel {self.name}")
        requested = asyncio.ensure_future(self._retry_now.wait())
        connects = self.connects
        try:
            await asyncio.wait({attempt, requested}, return_when=asyncio.FIRST_COMPLETED)
            if self.connects != connects or attempt.done():
                return await attempt
            raise TunnelError(FailureReason.RESET, "reconnect requested")
        finally:
            requested.cancel()
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)

    async def _keep_open(self, via: Link | None, ready: Callable[[], None]) -> tuple[float, TunnelError]:
        """Open the tunnel, and wait until it is lost.

        Returns:
            The number of seconds for which the tunnel was open, and the cause of the loss.
        """
        async with AsyncExitStack() as stack:
            # `via` is None only if this uplink provides the direct link. `open` then ignores `via`.
            opened = await stack.enter_async_context(self.tunnel.open(via, self._progress))  # type: ignore[arg-type]
            began = time.monotonic()
            self.connects += 1
            self.opened = opened
            self._progress(TunnelState.UP)
            ready()
            try:
                cause = await self._wait_until_lost(opened.link)
            finally:
                self.opened = None
                self._publish(None)
        return time.monotonic() - began, cause

    def _progress(self, state: TunnelState, reason: FailureReason | None = None, detail: str = "") -> None:
        """Store the state that the tunnel reports. Provide the link only if the state is `up`."""
        if self.opened is not None:
            self._publish(self.opened.link if state is TunnelState.UP else None)
        if state is TunnelState.UP and self._draining:
            state = TunnelState.DRAINING
        self._become(state, reason, detail)

    async def _wait_until_lost(self, link: Link) -> TunnelError:
        """Wait until the link is lost or a reconnect is requested, and return the cause."""
        lost = asyncio.ensure_future(link.lost())
        requested = asyncio.ensure_future(self._retry_now.wait())
        try:
            await asyncio.wait({lost, requested}, return_when=asyncio.FIRST_COMPLETED)
            return lost.result() if lost.done() else TunnelError(FailureReason.RESET, "reconnect requested")
        finally:
            lost.cancel()
            requested.cancel()

    async def _wait_to_retry(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._retry_now.wait()
        except TimeoutError:
            return

    def _publish(self, link: Link | None) -> None:
        self.link = link
        if link is None:
            self._has_link.clear()
        else:
            self._has_link.set()

    def _become(self, state: TunnelState, reason: FailureReason | None = None, detail: str = "") -> None:
        """Change the state, and log the change. No other method changes the state.

        During an attempt to open the tunnel, do not log, and keep the reason and detail of the previous failure.

        Change `since` only if the availability changes (see `TunnelState.availability`).
        """
        if state.availability is not self.state.availability:
            self.since = time.time()
        self.state = state
        if state in _ATTEMPTING:
            return
        self.reason, self.detail = reason, one_line(detail)
        if self._log is not None:
            self._log.record(state, self.reason, self.detail)
        self.settled.set()
        for watcher in self.watchers.copy():
            watcher()


_ATTEMPTING = {TunnelState.RESOLVING, TunnelState.CONNECTING, TunnelState.AUTHENTICATING}
