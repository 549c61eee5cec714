"""Defines the interface for connecting to one target through the program of a `command` tunnel.

Each `mode` of `CommandTunnelOptions` has one implementation.
"""

from collections.abc import Mapping
from typing import Protocol

from gateway.command_tunnel.local_port_state import LocalPortState
from gateway.errors import TunnelError
from gateway.relay.byte_stream import ByteStream


class TargetConnector(Protocol):
    """Connects to one target through the program of a `command` tunnel."""

    @property
    def is_suspect(self) -> bool:
        """Whether processes are running, but none of them responds."""

    @property
    def failure(self) -> TunnelError | None:
        """The latest failure of the program; None after a success, or while a process is running."""

    @property
    def has_clients(self) -> bool:
        """Whether a connection is open or is being opened."""

    async def start(self) -> None:
        """Start a process, and wait until the process works. Raises `TunnelError` if the process fails."""

    async def connect(self) -> ByteStream:
        """Connect to the target. The caller owns the connection. Raises `TunnelError` or `DialError`."""

    def local_ports(self, now: float) -> dict[int, str]:
        """Return the local ports whose state `check` needs.

        Args:
            now: Monotonic time in seconds.

        Returns:
            A mapping from each port to the loopback address that the gateway dials.
        """

    def check(self, now: float, ports: Mapping[int, LocalPortState]) -> None:
        """Replace or kill processes that do not respond. The link calls this method periodically.

        Args:
            now: Monotonic time in seconds.
            ports: The state of each port that `local_ports` has returned.
        """

    async def close(self) -> None:
        """Stop all tasks, and stop processes without clients. `TunnelProcesses` stops the other processes."""
