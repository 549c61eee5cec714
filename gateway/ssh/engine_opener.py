"""Opens SSH channels whose bytes the C engine (data plane) relays."""

import asyncio

import asyncssh

from gateway.connection_tap import Tap
from gateway.contracts.states import CloseReason
from gateway.contracts.values import Endpoint
from gateway.measurement import Histogram
from gateway.relay.engine_runner import EngineRunner
from gateway.ssh.client_connection import ClientConnection, channel_target
from gateway.ssh.engine_channel import EngineChannel
from gateway.ssh.flow_control import MAX_RECEIVE_PACKET, MAX_SEND_PACKET


class EngineChannelOpener:
    """Opens channels in the C engine; implements `gateway.ssh.pooled_connection.ChannelOpener`.

    Args:
        conn: The SSH connection.
        runner: Runs the engine that carries the connection.
        wire: The engine's token for the connection.
    """

    def __init__(self, conn: ClientConnection, runner: EngineRunner, wire: int) -> None:
        self._conn = conn
        self._runner = runner
        self._wire = wire
        self._opening: set[EngineChannel] = set()

    @property
    def opening_count(self) -> int:
        """Number of CHANNEL_OPEN requests without a reply, including those whose callers no longer wait."""
        return len(self._opening)

    async def open(
        self,
        to: Endpoint,
        latency: Histogram,
        timeout: float,  # noqa: ASYNC109 - `ChannelOpener` defines it
        tap: Tap | None = None,
    ) -> EngineChannel:
        """Open a channel to `to`. If the channel opens after this method has raised, close the channel."""
        if self._conn.transport_closed:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the SSH connection is closed")
        relay = EngineChannel(self._runner, latency, tap, self._opening.discard)
        self._opening.add(relay)
        max_packet = MAX_SEND_PACKET if self._conn.rekeys_often else MAX_RECEIVE_PACKET
        relay.request(self._wire, max_packet, *channel_target(to.host, to.port))
        timer = asyncio.get_running_loop().call_later(timeout, relay.fail_open, TimeoutError())
        try:
            await relay.opened
        except BaseException:
            relay.abort(CloseReason.ABORTED)
            raise
        finally:
            timer.cancel()
        return relay

    def fail_opens(self, error: Exception) -> None:
        """Make every pending `open` raise `error`. See `gateway.ssh.pooled_connection.ChannelOpener`."""
        for relay in list(self._opening):
            relay.fail_open(error)
