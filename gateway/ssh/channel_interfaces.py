"""Defines the interfaces of SSH channels and of the objects that open them."""

import socket
from typing import Protocol

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.relay import Relay
from gateway.metric_types import Histogram


class SshChannel(Relay, Protocol):
    """Defines the interface of an open SSH channel, which relays bytes between a client and a target."""

    @property
    def cut_short(self) -> bool:
        """Whether the relay ended before the client received the backend's whole stream, including the end-of-file.

        Valid only after the stream to the client has ended.
        """

    @property
    def buffered(self) -> int:
        """Number of bytes received from the target, but not yet accepted by the client's socket."""

    def attach(self, client: socket.socket) -> None:
        """Start to relay bytes between `client` and the target. The relay owns `client` from now on."""


class ChannelOpener(Protocol):
    """Defines the interface for opening channels on one SSH connection. Each data plane implements it."""

    @property
    def opening_count(self) -> int:
        """Number of CHANNEL_OPEN requests without a reply, including requests whose callers no longer wait."""

    async def open(
        self,
        to: HostPort,
        latency: Histogram,
        timeout: float,  # noqa: ASYNC109 - all functions that dial have this argument
        tap: Tap | None = None,
    ) -> SshChannel:
        """Open a channel to `to`.

        If the channel opens after this method has raised an error, the opener closes the channel.

        Args:
            to: The target.
            latency: Records the response latencies.
            timeout: Time limit for opening the channel, in seconds.
            tap: Observes the relayed bytes until `tap.finished` is true; None if the relay has no tap.

        Returns:
            A relay without a client. The caller must call the relay's `attach` or `abort`.

        Raises:
            TimeoutError: The channel did not open within `timeout`.
            asyncssh.ChannelOpenError: The server refuses the channel.
            asyncssh.Error, OSError: The SSH connection has failed.
            ValueError: The server's reply is not valid.
        """

    def fail_opens(self, error: Exception) -> None:
        """Make every pending call of `open` raise `error`."""
