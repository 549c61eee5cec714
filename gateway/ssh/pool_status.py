"""Collects the status of an SSH tunnel from the connections of its pool."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.contracts.link import LinkStatus
from gateway.ssh.pooled_connection import PooledConnection


@dataclass(frozen=True, kw_only=True)
class SshTunnelStatus(LinkStatus):
    """The status of an SSH tunnel: its connections, cipher and data plane.

    Args:
        connections: Number of open connections.
        suspect_connections: Number of connections that have been silent for longer than `keepalive.suspect`.
        draining_connections: Number of connections that the pool closes when they have no channels left, because the
            credentials have changed since the login, or because the pool has too many connections.
        channels: Number of channels that are open or opening.
        cipher: The cipher of the packets to the server; None if not connected.
        data_plane: The data plane, `native` or `asyncssh`; None if not connected.
        server: The server's version string; None if not connected.
        pool_error: Why the latest attempt to add a connection failed; None if it succeeded, or if the pool needs no
            more connections.
    """

    connections: int
    suspect_connections: int
    draining_connections: int
    channels: int
    cipher: str | None
    data_plane: Literal["native", "asyncssh"] | None
    server: str | None
    pool_error: str | None


def pool_status(
    connections: Sequence[PooledConnection], usable: Sequence[PooledConnection], suspect: float, error: str
) -> SshTunnelStatus:
    """Collect the status of a tunnel from the connections of its pool.

    Args:
        connections: All connections of the pool.
        usable: The connections that can get new channels.
        suspect: Seconds of silence after which a connection is suspect.
        error: The value of `pool_error`; empty if there is no error.
    """
    alive = [connection for connection in connections if connection.alive]
    now = time.monotonic()
    return SshTunnelStatus(
        rtt=next((each.round_trip for each in usable if each.round_trip is not None), None),
        connections=len(alive),
        suspect_connections=sum(connection.silence(now) >= suspect for connection in alive),
        draining_connections=sum(connection.outdated for connection in alive),
        channels=sum(connection.load for connection in alive),
        cipher=alive[0].cipher() if alive else None,
        data_plane=alive[0].data_plane() if alive else None,
        server=alive[0].server_version() if alive else None,
        pool_error=error or None,
    )
