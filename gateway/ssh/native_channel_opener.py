"""Opens SSH channels of the native data plane."""

import asyncio

from gateway.contracts.states import CloseReason
from gateway.contracts.values import Endpoint
from gateway.measurement import Histogram, Tap
from gateway.ssh.client_connection import ClientConnection
from gateway.ssh.flow_control import CONNECTION_GROWTH_BYTES, GROWTH_BUDGET, ByteBudget
from gateway.ssh.native_channel import NativeChannel, RoundTrip
from gateway.ssh.packet_transport import PacketTransport


class NativeChannelOpener:
    """Opens channels of the native data plane; implements `gateway.ssh.pooled_connection.ChannelOpener`.

    Args:
        conn: The SSH connection.
        transport: The transport of `conn`.
        round_trip: Returns the connection's last measured round trip.
    """

    def __init__(self, conn: ClientConnection, transport: PacketTransport, round_trip: RoundTrip) -> None:
        self._conn = conn
        self._transport = transport
        self._round_trip = round_trip
        self._growth_budget = ByteBudget(CONNECTION_GROWTH_BYTES, GROWTH_BUDGET)

    @property
    def opening_count(self) -> int:
        """Number of channel opens without a reply from the server. Includes those whose callers no longer wait."""
        return len(self._transport.reader.opening)

    async def open(
        self,
        to: Endpoint,
        latency: Histogram,
        timeout: float,  # noqa: ASYNC109 - `ChannelOpener` defines it
        tap: Tap | None = None,
    ) -> NativeChannel:
        """Open a channel to `to`. A channel that opens after this method has raised is closed immediately."""
        relay = NativeChannel(self._conn, self._transport, latency, self._round_trip, self._growth_budget, tap)
        try:
            relay.request(to.host, to.port)
        except BaseException:
            relay.window.close()
            raise
        timer = asyncio.get_running_loop().call_later(timeout, relay.fail_open, TimeoutError())
        try:
            if relay.opened is not None:
                await relay.opened
        except BaseException:
            relay.abort(CloseReason.ABORTED)
            raise
        finally:
            timer.cancel()
        return relay

    def fail_opens(self, error: Exception) -> None:
        """Make every pending `open` raise `error`. See `gateway.ssh.pooled_connection.ChannelOpener`."""
        for relay in list(self._transport.reader.opening.values()):
            relay.fail_open(error)
