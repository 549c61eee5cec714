"""Opens SSH channels whose bytes the native engine relays."""

import asyncio

import asyncssh

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.relay.native_engine_runner import NativeEngineRunner
from gateway.ssh.channel_target_encoding import channel_target
from gateway.ssh.flow_control import MAX_RECEIVE_PACKET, MAX_SEND_PACKET
from gateway.ssh.native_channel import NativeChannel
from gateway.ssh.ssh_connection import SshConnection


class NativeChannelOpener:
    """Opens channels in the native engine; implements `gateway.ssh.channel_interfaces.ChannelOpener`.

    Args:
        conn: The SSH connection.
        runner: Runs the native engine that handles the connection.
        connection_token: The native engine's token for the connection.
    """

    def __init__(self, conn: SshConnection, runner: NativeEngineRunner, connection_token: int) -> None:
        self._conn = conn
        self._runner = runner
        self._connection_token = connection_token
        self._opening: set[NativeChannel] = set()

    @property
    def opening_count(self) -> int:
        """See `gateway.ssh.channel_interfaces.ChannelOpener`."""
        return len(self._opening)

    async def open(
        self,
        to: HostPort,
        latency: Histogram,
        timeout: float,  # noqa: ASYNC109 - `ChannelOpener` defines it
        tap: Tap | None = None,
    ) -> NativeChannel:
        """See `gateway.ssh.channel_interfaces.ChannelOpener`."""
        if self._conn.transport_closed:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the SSH connection is closed")
        relay = NativeChannel(self._runner, latency, tap, self._opening.discard)
        self._opening.add(relay)
        max_packet = MAX_SEND_PACKET if self._conn.rekeys_often else MAX_RECEIVE_PACKET
        relay.request(self._connection_token, max_packet, *channel_target(to.host, to.port))
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
        """See `gateway.ssh.channel_interfaces.ChannelOpener`."""
        for relay in list(self._opening):
            relay.fail_open(error)
