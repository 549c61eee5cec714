"""Makes a native engine accept clients on a socket, and open an SSH channel to a target for each client."""

import socket
import struct
from collections.abc import Mapping
from typing import Protocol

from gateway.connection_tap import Tap
from gateway.contracts.native_listener_interfaces import NativeListenerRule
from gateway.relay.native_engine_runner import NativeEngineRunner
from gateway.relay.native_listener import NativeListener, NativeListenerEventHandler
from gateway.ssh.channel_interfaces import SshChannel
from gateway.ssh.channel_target_encoding import channel_target
from gateway.ssh.flow_control import INITIAL_WINDOW, MIN_WINDOW
from gateway.ssh.native_channel import NativeChannel
from gateway.ssh.pool_policy import CHANNELS_PER_CONNECTION
from gateway.ssh.pooled_connection import PooledConnection


class SshNativeListenerEventHandler(NativeListenerEventHandler, Protocol):
    """Handles the clients and the channels of an `SshNativeListener`."""

    def adopt(self, connection: PooledConnection, channel: SshChannel) -> None:
        """Add to `connection` a channel that the native engine has opened. Called before `on_joined`."""


class SshNativeListener(NativeListener):
    """A listening socket of a native engine.

    For each client, the native engine opens an SSH channel to the target.

    Args:
        runner: Runs the native engine.
        rule: The target, the allowed clients, and what to measure.
        connections: The SSH connections on which the native engine opens the channels. Each key is the native
            engine's token for the connection.
        max_packet: The maximum size of received packets, in bytes.
        sock: The listening socket. The native engine uses a duplicate of its descriptor.
        permits: Number of clients that the listener may accept until the gateway permits more.
        handler: Receives the accepted clients.

    Raises:
        OSError: The process has no file descriptors left.
    """

    def __init__(
        self,
        runner: NativeEngineRunner,
        rule: NativeListenerRule,
        connections: Mapping[int, PooledConnection],
        max_packet: int,
        sock: socket.socket,
        permits: int,
        handler: SshNativeListenerEventHandler,
    ) -> None:
        self._connections = connections
        self._max_packet = max_packet
        self._adopt = handler.adopt
        super().__init__(runner, rule, sock, permits, handler)

    def _listen(self, descriptor: int, permits: int) -> None:
        connections = struct.pack(f"={len(self._connections)}Q", *self._connections)
        to, tap = self._rule.to, self._rule.make_tap is not None
        self._runner.engine.listen(
            self._token, descriptor, self._histogram, self._open_histogram, permits, MIN_WINDOW, INITIAL_WINDOW,
            self._max_packet, CHANNELS_PER_CONNECTION - 1, tap, self._rule.min_responses, connections,
            self._networks, *channel_target(to.host, to.port),
        )  # fmt: skip

    @property
    def overflow_periods(self) -> int:
        """Number of periods in which there were too few SSH connections for the new channels.

        A period lasts about one second. A period counts if it had enough new channels to fill one connection, and
        more than 3/4 of these channels were opened on full connections (see `CHANNELS_PER_CONNECTION`).
        """
        return self._read()[1]

    def _create_relay(self, token: int, connection_token: int, tap: Tap | None) -> NativeChannel:
        channel = NativeChannel(self._runner, self._rule.latency, tap, _ignore, token)
        self._adopt(self._connections[connection_token], channel)
        return channel


def _ignore(channel: NativeChannel) -> None:
    del channel
