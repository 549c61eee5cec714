"""Defines the direct link, which dials from this host without a tunnel."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from math import inf
from typing import NoReturn

from gateway.connection_tap import Tap
from gateway.contracts.accepting_link import AcceptedClientHandler, AcceptRule, LinkListener
from gateway.contracts.config_types import Endpoint
from gateway.contracts.link import Link, NetworkId, Stream
from gateway.contracts.phases import Phases
from gateway.contracts.relay import Relay
from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import OpenTunnel, TunnelStateCallback
from gateway.measurement import Histogram
from gateway.relay.data_plane_selection import listen_and_dial, relay_sockets
from gateway.relay.tcp_dial import DIAL_TIMEOUT, dial


class DirectLink:
    """A link that dials from this host and is never lost.

    It implements `gateway.contracts.link.Link` and `gateway.contracts.accepting_link.AcceptingLink`.

    Args:
        timeout: Time limit for one dial, in seconds.
    """

    network = NetworkId()

    def __init__(self, timeout: float = DIAL_TIMEOUT) -> None:
        self._timeout = timeout

    async def socket(self, to: Endpoint, phases: Phases | None = None) -> Stream:
        """Dial `to`, and return the connected, non-blocking socket. Measure the phases `dns` and `tcp`."""
        return await dial(to, phases or Phases(), self._timeout)

    async def join(
        self, client: Stream, to: Endpoint, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """Dial `to`, and forward bytes between the target and `client`. See `gateway.contracts.link.Link`."""
        return relay_sockets(client, await dial(to, Phases(), min(self._timeout, within)), latency, tap)

    def listen(self, rule: AcceptRule, permits: int, handler: AcceptedClientHandler) -> LinkListener | None:
        """Accept clients in the native engine. See `gateway.contracts.accepting_link.AcceptingLink`."""
        return listen_and_dial(rule, permits, handler)

    async def lost(self) -> NoReturn:
        """Wait forever: this link cannot be lost."""
        await asyncio.Event().wait()
        raise AssertionError


class DirectTunnel:
    """Replaces a tunnel if the gateway dials directly; implements `gateway.contracts.tunnel.Tunnel`."""

    far_side = "this host"

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: TunnelStateCallback) -> AsyncIterator[OpenTunnel]:
        """See `gateway.contracts.tunnel.Tunnel`. Ignores `via`."""
        del via
        progress(TunnelState.CONNECTING)
        yield OpenTunnel(DirectLink())
