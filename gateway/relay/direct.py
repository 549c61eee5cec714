"""No tunnel: the network that this host is in. The outermost link of every chain."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from math import inf

from gateway.contracts import Endpoint, Link, Phases, Progress, Relay, Stream, TunnelState
from gateway.measure import Histogram, Tap
from gateway.relay.dial import DIAL_TIMEOUT, dial
from gateway.relay.straight import StraightRelay


class DirectLink:
    """Dials from this host; never lost.

    Args:
        timeout: Seconds for one dial.
    """

    dial_phase = "tcp"
    leads_to = "here"

    def __init__(self, timeout: float = DIAL_TIMEOUT) -> None:
        self._timeout = timeout

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """See `gateway.contracts.Link`; counts the phases `dns` and `tcp`."""
        return await dial(to, phases or Phases(), self._timeout)

    async def join(
        self, client: Stream, to: Endpoint, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """See `gateway.contracts.Link`."""
        return StraightRelay(client, await dial(to, Phases(), min(self._timeout, within)), latency, tap)

    async def lost(self) -> str:
        """Never returns."""
        await asyncio.Event().wait()
        return "never"

    def renew(self) -> None:
        """Nothing was proved to anybody."""

    def rtt(self) -> float | None:
        """Not measured: there is no far side."""
        return None

    def details(self) -> dict[str, object]:
        """Nothing to tell."""
        return {}


class DirectTunnel:
    """The tunnel that is always open."""

    far_side = "this host"

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: Progress) -> AsyncIterator[Link]:
        """See `gateway.contracts.Tunnel`."""
        del via
        progress(TunnelState.CONNECTING)
        yield DirectLink()
