"""Defines the interfaces of the objects that send and receive the packets of an SSH connection."""

import socket
from collections.abc import Mapping
from typing import Any, Protocol

from gateway.contracts.native_listener_interfaces import NativeListenerRule
from gateway.ssh.native_engine_cipher import CipherKey


class SshConnectionTransport(Protocol):
    """Defines the methods that an `SshConnection` calls on its transport."""

    def on_sending_changed(self) -> None:
        """Start or stop sending channel data. Called when a key exchange starts or ends, or the connection closes."""

    def on_packet_processed(self) -> None:
        """Called after asyncssh has processed a received packet."""

    def abort(self) -> None:
        """Try once to send the queued packets, then close the socket."""


class NativeTransportInterface(Protocol):
    """Defines the interface of `NativeTransport`, which cannot be imported if the native engine is not built."""

    runner: Any
    token: int

    @property
    def received_bytes(self) -> int:
        """See `NativeTransport.received_bytes`."""

    @property
    def channel_count(self) -> int:
        """See `NativeTransport.channel_count`."""

    def set_key(self, key: CipherKey, *, sealing: bool) -> None:
        """See `NativeTransport.set_key`."""

    def set_round_trip(self, seconds: float) -> None:
        """See `NativeTransport.set_round_trip`."""

    def last_heard(self, within: float) -> float:
        """See `NativeTransport.last_heard`."""

    def make_opener(self) -> Any:
        """See `NativeTransport.make_opener`."""

    def make_listener(
        self,
        rule: NativeListenerRule,
        connections: Mapping[int, Any],
        max_packet: int,
        sock: socket.socket,
        permits: int,
        handler: Any,
    ) -> Any:
        """See `NativeTransport.make_listener`."""

    def recall_clients(self) -> None:
        """See `NativeTransport.recall_clients`."""
