"""Decides which SSH connections of a pool to use, how many to dial, and which to abort. Does no I/O.

A silent connection is suspect: it gets no new channels, and the pool dials a replacement. If other connections
receive data, the pool aborts the suspect connection after the additional silence `keepalive.replace`. If all
connections are silent, the network has stalled. The pool then keeps silent connections for up to `keepalive.lost`,
because their channels continue if the network recovers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.ssh.options import KeepaliveOptions

CHANNELS_PER_CONNECTION = 128
"""A connection with this number of channels is full. If all connections are full, the pool opens another one. A
higher number would increase the latency, because sshd polls all channels of a connection in each iteration of its
loop. With a lower number, the native engines would send fewer packets per system call."""
REPLACEMENT_TIME = 1.0
"""Seconds within which a replacement connection opens if the network works. If all connections are silent, and no
replacement opens in this time, the policy assumes that the network has stalled."""
SLOW_KEEPALIVE = 0.8
"""Seconds to wait for a keepalive reply before new channels use another connection."""


@dataclass
class ConnectionHealth:
    """The state of one SSH connection, as input for `evaluate`.

    Args:
        silence: Seconds since the last data from the server arrived.
        load: Number of channels that are open or opening.
        outdated: See `PooledConnection.outdated`. An outdated connection gets new channels only if no other is
            usable. The pool closes it when it has no channels and enough other connections are open.
        stalled: Whether the pool has marked the connection as stalled (see `PoolDecision.stalled`).
        silence_at_recovery: The value of `silence` when another connection became usable after the stall. 0 if no
            other connection has become usable, or if this connection is not stalled.
        keepalive_wait: Seconds for which the connection has waited for a keepalive reply; 0 if it waits for none.
    """

    silence: float
    load: int
    outdated: bool = False
    stalled: bool = False
    silence_at_recovery: float = 0.0
    keepalive_wait: float = 0.0


@dataclass(frozen=True)
class PoolDecision:
    """The result of `evaluate`. The lists contain indexes into `pool`, the argument of `evaluate`.

    Args:
        usable: Connections that can get new channels.
        suspect: Connections that have been silent for at least `keepalive.suspect`.
        slow: Connections that reply too slowly to keepalives. The pool repeats their pending CHANNEL_OPEN requests on
            other connections.
        abort: Connections to abort, because they have been silent for too long.
        close: Connections to close, because they are outdated and have no channels.
        dial: Number of connections to open.
        stalled: Connections to mark as stalled, because all connections are silent.
    """

    usable: list[int]
    suspect: list[int]
    slow: list[int]
    abort: list[int]
    close: list[int]
    dial: int
    stalled: list[int]


def evaluate(pool: Sequence[ConnectionHealth], keepalive: KeepaliveOptions, target_size: int) -> PoolDecision:
    """Decide which actions a pool must take.

    Args:
        pool: The open connections.
        keepalive: The times after which a silent connection becomes suspect, and after which the pool aborts it.
        target_size: Number of connections that the pool should have.
    """
    suspect = [at for at, each in enumerate(pool) if each.silence >= keepalive.suspect]
    heard = [at for at in range(len(pool)) if at not in suspect]
    current = [at for at in heard if not pool[at].outdated]
    prompt = [at for at in current if pool[at].keepalive_wait < SLOW_KEEPALIVE]
    abort_after = keepalive.suspect + keepalive.replace
    abort: list[int] = []
    stalled: list[int] = []
    for at in suspect:
        each = pool[at]
        if each.silence >= keepalive.lost:
            abort.append(at)
        elif each.stalled:
            # After another connection has recovered, give this connection time to recover, too. TCP doubles its
            # retransmission timeout after each attempt. After a stall of N seconds, TCP therefore retransmits within
            # another N seconds, and the connection recovers if the server is alive.
            if each.silence_at_recovery and each.silence >= 2 * each.silence_at_recovery + keepalive.replace:
                abort.append(at)
        elif not heard and each.silence >= keepalive.suspect + min(REPLACEMENT_TIME, keepalive.replace):
            stalled.append(at)
        elif heard and each.silence >= abort_after:
            abort.append(at)
    enough = len(current) >= max(1, target_size)
    return PoolDecision(
        usable=prompt or current or heard,
        suspect=suspect,
        slow=[at for at in current if at not in prompt] if prompt else [],
        abort=abort,
        close=[at for at in heard if pool[at].outdated and not pool[at].load and enough],
        dial=max(0, target_size - len(current)),
        stalled=stalled,
    )


def choose_connection(loads: Sequence[int], max_connections: int) -> tuple[int, bool]:
    """Choose the connection for the next channel.

    Args:
        loads: Number of channels of each usable connection. The list must not be empty.
        max_connections: Maximum number of connections in the pool.

    Returns:
        The index of the least loaded connection, and whether the pool should open another connection.
    """
    chosen = min(range(len(loads)), key=loads.__getitem__)
    return chosen, loads[chosen] >= CHANNELS_PER_CONNECTION - 1 and len(loads) < max_connections


def choose_spare(loads: Sequence[int], runners: Sequence[object]) -> int | None:
    """Choose the connection to close if the pool has more connections than it needs.

    Args:
        loads: Number of channels of each usable connection.
        runners: For each of these connections, the `NativeEngineRunner` that handles it; None for asyncssh.

    Returns:
        The index of a connection without channels, preferably on the native engine with the most connections. None
        if all connections have channels.
    """
    idle = [at for at, load in enumerate(loads) if load == 0]
    counts = Counter(runners)
    return max(idle, key=lambda at: counts[runners[at]], default=None)
