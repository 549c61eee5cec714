"""Monitors whether packets still arrive through an open VPN. If not, reconnects the VPN or reports it as lost."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import TunnelStateCallback
from gateway.errors import FailureReason
from gateway.vpn.link import VpnLink
from gateway.vpn.overdue_reply_timer import OverdueReplyLevel

log = logging.getLogger(__name__)

_INTERVAL = 1.0
_ECHO_INTERVAL_QUIET = 2.0
_ECHO_INTERVAL = 10.0


class LivenessMonitor:
    """Monitors whether packets still arrive through one open VPN, reports the state, and reconnects the VPN.

    Args:
        link: The link of the VPN.
        progress: Called when packets no longer arrive, and when they arrive again.
        received: Returns the number of bytes received so far.
        reconnect: Reconnects the VPN. The device and the connections through the device remain.
    """

    def __init__(
        self,
        link: VpnLink,
        progress: TunnelStateCallback,
        received: Callable[[], Awaitable[int]],
        reconnect: Callable[[], Awaitable[None]],
    ) -> None:
        self._link = link
        self._progress = progress
        self._received = received
        self._reconnect = reconnect
        self._level = OverdueReplyLevel.FINE
        self._connected = True

    def on_connected(self) -> None:
        """Report the tunnel as up, because the VPN client has reported that it is connected."""
        self._connected = True
        self._link.silence.record_reply(time.monotonic())
        self._level = OverdueReplyLevel.FINE
        self._progress(TunnelState.UP)

    def on_reconnecting(self, why: str) -> None:
        """Report the tunnel as suspect, because the VPN client has reported that it is reconnecting.

        Args:
            why: The cause, for the field `detail` of the tunnel's status.
        """
        if self._connected:
            self._connected = False
            self._link.silence.record_echo_request(time.monotonic())
            self._progress(TunnelState.SUSPECT, FailureReason.RESET, why)

    async def run(self) -> None:
        """Monitor the link until cancelled."""
        # Send the first requests immediately, to find the hosts that reply.
        self._link.send_echo_requests()
        last_request = time.monotonic()
        while True:
            before = time.monotonic()
            await asyncio.sleep(_INTERVAL)
            now = time.monotonic()
            if now - before > 2 * _INTERVAL + 1:
                self._link.silence.record_reply(now)  # ignore the missing replies, because this process was suspended
            silence = self._link.silence
            if not self._connected:
                silence.record_echo_request(now)  # treat a disconnected VPN client like a missing reply
            received = await self._received()
            # Ignore bytes that arrive during a reconnect, because they belong to the handshake, which can still fail.
            if self._connected and silence.record_received(received, now):
                self._link.ignore_unresponsive_hosts()
            quiet = now - silence.last_reply >= _ECHO_INTERVAL_QUIET
            if (quiet and now - last_request >= _ECHO_INTERVAL_QUIET) or now - last_request >= _ECHO_INTERVAL:
                last_request = now
                self._link.send_echo_requests()
            self._enter(silence.level(now))
            if self._connected and silence.start_reconnect(now):
                log.info("%s: no replies arrive: reconnecting with the same device", self._link.network)
                await self._reconnect()

    def _enter(self, level: OverdueReplyLevel) -> None:
        """Store the level. If the level has changed, report the tunnel's state.

        The level `lost` also resets the client connections. Only the level `restart` reports the link as lost.
        """
        before, self._level = self._level, level
        if level is before:
            return
        if level is OverdueReplyLevel.FINE:
            # During a reconnect, do not report the tunnel as up: `on_connected` reports it after the reconnect.
            if self._connected:
                self._progress(TunnelState.UP)
        elif before is OverdueReplyLevel.FINE and self._connected:
            self._progress(TunnelState.SUSPECT, FailureReason.TIMEOUT, "no replies arrive through the VPN")
        if level in (OverdueReplyLevel.DOWN, OverdueReplyLevel.LOST, OverdueReplyLevel.RESTART) and before not in (
            OverdueReplyLevel.DOWN,
            OverdueReplyLevel.LOST,
        ):
            detail = "no replies have arrived through the VPN for some time; the gateway continues to reconnect"
            self._progress(TunnelState.BACKOFF, FailureReason.TIMEOUT, detail)
        if level is OverdueReplyLevel.LOST:
            self._link.reset_all()
        elif level is OverdueReplyLevel.RESTART:
            self._link.mark_lost("no replies arrived through the VPN, even after reconnecting with the same device")
