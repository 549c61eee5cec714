"""A VPN as a link: sockets that leave by its device."""

import asyncio
import contextlib
import errno
import ipaddress
import time
from collections.abc import Callable
from math import inf

from gateway.contracts import Ending, Endpoint, Phases, Relay, Stream
from gateway.errors import DialError
from gateway.measure import Histogram, Tap
from gateway.relay.dial import DIAL_TIMEOUT, dial
from gateway.relay.straight import StraightRelay
from gateway.vpn.addressing import Addressing
from gateway.vpn.dns import Names
from gateway.vpn.icmp import Echo
from gateway.vpn.liveness import Patience, Vitals
from gateway.vpn.network_context import Place

_SAID_BY_THE_PEER = (errno.ECONNREFUSED, errno.ECONNRESET)


class VpnLink:
    """See `gateway.contracts.Link`.

    Args:
        place: Where sockets are made.
        leads_to: What it is called.
        patience: How long silence may last.
        renewed: Called when keys or certificates changed.
    """

    dial_phase = "tcp"

    def __init__(self, place: Place, leads_to: str, patience: Patience, renewed: Callable[[], None]) -> None:
        self.leads_to = leads_to
        self.vitals = Vitals(patience, time.monotonic())
        self.told: dict[str, object] = {}
        """What the status tells; whoever keeps the link adds to it."""
        self._place = place
        self._names = Names(place)
        self._echo = Echo(place, self._answered)
        self._rtt: float | None = None
        self._renewed = renewed
        self._relays: set[Relay] = set()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._addresses: tuple[object, ...] | None = None

    def address(self, wanted: Addressing) -> None:
        """The device has been set up like this; connections from an address that it had before are reset."""
        if self._addresses is not None and self._addresses != wanted.addresses:
            self.reset_all()
        self._addresses = wanted.addresses
        self._names.learn(wanted)
        for peer in (*wanted.gateways, *wanted.peers, *wanted.servers):
            self._echo.learn(peer)
        self.told["addresses"] = [str(each.ip) for each in wanted.carried]
        self.told["name_servers"] = [str(each) for each in wanted.servers]

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """See `gateway.contracts.Link`; counts the phases `dns` and `tcp`."""
        return await self._dial(to, phases or Phases(), DIAL_TIMEOUT)

    async def join(
        self, client: Stream, to: Endpoint, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """See `gateway.contracts.Link`."""
        relay = StraightRelay(client, await self._dial(to, Phases(), min(DIAL_TIMEOUT, within)), latency, tap)
        self._relays.add(relay)
        relay.ended.add_done_callback(lambda _: self._relays.discard(relay))
        return relay

    async def _dial(self, to: Endpoint, timed: Phases, timeout: float) -> Stream:  # noqa: ASYNC109
        self.vitals.ask_dial(time.monotonic())
        try:
            sock = await dial(to, timed, timeout, self._names.resolve, self._place.make)
        except DialError as error:
            # Not what our own kernel says where a route is missing.
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _SAID_BY_THE_PEER:
                self.vitals.hear(time.monotonic())
            raise
        self.vitals.hear(time.monotonic())
        with contextlib.suppress(ValueError, OSError):  # a name's scope, or it is gone already
            self._echo.learn(ipaddress.ip_address(sock.getpeername()[0]))
        return sock

    def ask(self) -> None:
        """Send echo requests into the VPN."""
        if self._echo.ask():
            self.vitals.ask_echo(time.monotonic())

    def doubt_the_silent(self) -> None:
        """Something came through: see `gateway.vpn.icmp.Echo`."""
        self._echo.doubt_the_silent()

    def _answered(self, seconds: float) -> None:
        self._rtt = seconds
        self.vitals.hear(time.monotonic())

    def lose(self, why: str) -> None:
        """It is over."""
        if not self._lost.done():
            self._lost.set_result(why)

    def reset_all(self) -> None:
        """Reset every client."""
        for relay in list(self._relays):
            relay.abort(Ending.LINK_LOST)

    async def lost(self) -> str:
        """See `gateway.contracts.Link`."""
        return await asyncio.shield(self._lost)

    def renew(self) -> None:
        """See `gateway.contracts.Link`."""
        self._renewed()

    def rtt(self) -> float | None:
        """See `gateway.contracts.Link`; of the last echo request that was answered."""
        return self._rtt

    def details(self) -> dict[str, object]:
        """See `gateway.contracts.Link`."""
        return self.told | {"connections": 1, "clients": len(self._relays)}

    def close(self) -> None:
        """Reset every client, and stop asking."""
        self._echo.close()
        self.reset_all()
        self.lose("it was closed")
