"""Implements a link that tries several tunnels, one after the other, until a dial succeeds through one of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import NoReturn, Protocol, TypeVar

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link, RemoteNetworkId, Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.errors import DialError, FailureReason, LinkLostError, TargetPathError
from gateway.metric_types import Histogram

_NEXT_TUNNEL_AFTER = 2.0
"""Time limit, in seconds, for a dial through each tunnel except the last one."""

_Connected = TypeVar("_Connected")


class OuterTunnel(Protocol):
    """Defines the attributes of an outer tunnel. Uplinks implement this protocol."""

    tunnel_name: str | None
    """The tunnel's name; None for the direct link."""

    link: Link | None
    """The open link; None while the tunnel is down or suspect."""


class LinkThroughOuterTunnels:
    """A link that tries several outer tunnels, one after the other, until a dial succeeds through one of them.

    Implements `gateway.contracts.link.Link`.

    If a dial through a tunnel fails, that tunnel moves to the end of the order.

    Args:
        tunnels: The outer tunnels, in order of preference.
        network: The network on the far side, which is the same for all of these tunnels.
    """

    def __init__(self, tunnels: Sequence[OuterTunnel], network: RemoteNetworkId) -> None:
        self.network = network
        self._tunnels = list(tunnels)
        self.used: OuterTunnel | None = None
        """The tunnel of the last successful dial; None if no dial has succeeded."""

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        """Connect a non-blocking socket to `to`. See `gateway.contracts.link.Link`."""
        return await self._first(lambda link, _: link.socket(to, phases), inf)

    async def join(
        self, client: Stream, to: HostPort, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """Dial the target `to`, and forward bytes between `to` and `client`. See `gateway.contracts.link.Link`."""
        return await self._first(lambda link, left: link.join(client, to, latency, left, tap), within)

    async def lost(self) -> NoReturn:
        """Wait until cancelled. This link is never lost: if a tunnel closes, the link uses the other tunnels."""
        await asyncio.Event().wait()
        raise AssertionError

    async def _first(self, dial: Callable[[Link, float], Awaitable[_Connected]], within: float) -> _Connected:
        """Dial through the open tunnels, one after the other, until a dial succeeds. Return the result of that dial.

        Args:
            dial: Dials through the given link, within the given number of seconds.
            within: Time limit for all dials together, in seconds.

        Raises:
            TargetPathError: No tunnel is open, or all dials failed. In the second case, the error of the last dial.
        """
        deadline = time.monotonic() + within
        failure: TargetPathError = LinkLostError("none of the tunnels is open")
        open_tunnels = [(tunnel, tunnel.link) for tunnel in self._tunnels if tunnel.link is not None]
        for tunnel, link in open_tunnels:
            is_last = tunnel is open_tunnels[-1][0]
            left = deadline - time.monotonic()
            try:
                async with asyncio.timeout(None if is_last else _NEXT_TUNNEL_AFTER):
                    connected = await dial(link, left if is_last else min(left, _NEXT_TUNNEL_AFTER))
            except TimeoutError:
                failure = DialError(
                    FailureReason.TIMEOUT, f"{link.network}: no connection within {_NEXT_TUNNEL_AFTER:g} s"
                )
            except (DialError, LinkLostError) as error:
                failure = error
            else:
                self.used = tunnel
                return connected
            self._tunnels.remove(tunnel)
            self._tunnels.append(tunnel)
        raise failure
