"""Defines the direct link, which dials from this host without a tunnel."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from math import inf
from typing import NoReturn

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link, RemoteNetworkId, Stream
from gateway.contracts.native_listener_interfaces import (
    AcceptedClientHandler,
    NativeListenerInterface,
    NativeListenerRule,
)
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import TunnelOpenResult, TunnelStateCallback
from gateway.metric_types import Histogram
from gateway.relay.native_engine_selection import listen_and_dial, relay_sockets
from gateway.relay.tcp_dial import DIAL_TIMEOUT, dial


class DirectLink:
    """A link that dials from this host and is never lost.

    It implements `gateway.contracts.link.Link` and `LinkWithNativeListeners`.

    Args:
        timeout: Time limit for one dial, in seconds.
    """

    network = RemoteNetworkId()

    def __init__(self, timeout: float = DIAL_TIMEOUT) -> None:
        self._timeout = timeout

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        """Dial `to`, and return the connected, non-blocking socket. Measure the phases `dns` and `tcp`."""
        return await dial(to, phases or PhaseTimer(), self._timeout)

    async def join(
        self, client: Stream, to: HostPort, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """Dial `to`, and forward bytes between the target and `client`. See `gateway.contracts.link.Link`."""
        return relay_sockets(client, await dial(to, PhaseTimer(), min(self._timeout, within)), latency, tap)

    def listen(
        self, rule: NativeListenerRule, permits: int, handler: AcceptedClientHandler
    ) -> NativeListenerInterface | None:
        """Accept clients in the native engine. See `LinkWithNativeListeners`."""
        return listen_and_dial(rule, permits, handler)

    async def lost(self) -> NoReturn:
        """Wait forever: this link cannot be lost."""
        await asyncio.Event().wait()
        raise AssertionError


class DirectLinkFactory:
    """Provides the direct link in place of a tunnel; implements `gateway.contracts.tunnel.Tunnel`."""

    far_side = "this host"

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: TunnelStateCallback) -> AsyncIterator[TunnelOpenResult]:
        """See `gateway.contracts.tunnel.Tunnel`. Ignores `via`."""
        del via
        progress(TunnelState.CONNECTING)
        yield TunnelOpenResult(DirectLink())
