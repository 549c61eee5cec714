"""Watches an open VPN: asks for signs of life, and acts on silence in place before anything is started anew."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from gateway.contracts import Progress, TunnelState
from gateway.errors import Reason
from gateway.vpn.link import VpnLink
from gateway.vpn.liveness import Stage

log = logging.getLogger(__name__)

_LOOK = 1.0
_ASK = 2.0
_RTT = 10.0


class Keeper:
    """One open link's watch.

    Args:
        link: The link.
        progress: Told when it falls silent, and when it is heard again.
        received: Gives the bytes received in all.
        nudge: Makes the connection anew, in place.
    """

    def __init__(
        self,
        link: VpnLink,
        progress: Progress,
        received: Callable[[], Awaitable[int]],
        nudge: Callable[[], Awaitable[None]],
    ) -> None:
        self._link = link
        self._progress = progress
        self._received = received
        self._nudge = nudge
        self._stage = Stage.FINE
        self._connected = True

    def connected(self) -> None:
        """The VPN itself says that its connection stands."""
        self._connected = True
        self._link.vitals.hear(time.monotonic())
        self._stage = Stage.FINE
        self._progress(TunnelState.UP)

    def disconnected(self, why: str) -> None:
        """The VPN itself says that it is being connected anew: from now on an answer is due."""
        if self._connected:
            self._connected = False
            self._link.vitals.ask_echo(time.monotonic())
            self._progress(TunnelState.SUSPECT, Reason.RESET, why)

    async def run(self) -> None:
        """Watch until cancelled."""
        # At once, so that it is known who answers.
        self._link.ask()
        asked = time.monotonic()
        while True:
            before = time.monotonic()
            await asyncio.sleep(_LOOK)
            now = time.monotonic()
            if now - before > 2 * _LOOK + 1:
                self._link.vitals.hear(now)  # it was we who slept
            vitals = self._link.vitals
            if not self._connected:
                vitals.ask_echo(now)  # an answer stays due until it says that it is connected
            received = await self._received()
            # What is said to connect anew is no sign of life.
            if self._connected and vitals.count(received, now):
                self._link.doubt_the_silent()
            quiet = now - vitals.heard >= _ASK
            if (quiet and now - asked >= _ASK) or now - asked >= _RTT:
                asked = now
                self._link.ask()
            self._settle(vitals.stage(now))
            if self._connected and vitals.nudge_due(now):
                log.info("%s: nothing comes through; connecting anew in place", self._link.leads_to)
                await self._nudge()

    def _settle(self, stage: Stage) -> None:
        """Tell what has changed."""
        before, self._stage = self._stage, stage
        if stage is before:
            return
        if stage is Stage.FINE:
            # What is being connected anew is up when it says so, however long we slept meanwhile.
            if self._connected:
                self._progress(TunnelState.UP)
        elif before is Stage.FINE and self._connected:
            self._progress(TunnelState.SUSPECT, Reason.TIMEOUT, "nothing comes through")
        if stage in (Stage.DOWN, Stage.LOST, Stage.RESTART) and before not in (Stage.DOWN, Stage.LOST):
            self._progress(TunnelState.BACKOFF, Reason.TIMEOUT, "nothing has come through for long; still trying")
        if stage is Stage.LOST:
            self._link.reset_all()
        elif stage is Stage.RESTART:
            self._link.lose("nothing came through, however often it was connected anew")
