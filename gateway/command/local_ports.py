"""Reads the kernel's table of TCP sockets, to find out whether programs accept and read on their local ports."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED, _LISTEN = 0x01, 0x0A
"""Values of enum tcp_state (linux/tcp_states.h)."""


@dataclass
class LocalPort:
    """The sockets of one local port.

    Args:
        owners: The user IDs that own the listening sockets.
        unread: Bytes that were received and not read, plus connections that were not accepted.
        pending: The ports of the clients whose connections were not accepted.
    """

    owners: set[int] = field(default_factory=set)
    unread: int = 0
    pending: set[int] = field(default_factory=set)


def read_local_ports(ports: Collection[int]) -> dict[int, LocalPort]:
    """Return the sockets of local ports, from `/proc/net/tcp` and `/proc/net/tcp6` (proc_pid_net(5)).

    Blocks: on a host with many connections, the tables are large.

    Args:
        ports: The TCP ports.

    Raises:
        OSError: A table cannot be read.
    """
    found = {port: LocalPort() for port in ports}
    choice = "|".join(f"{port:04X}" for port in ports)
    # Address and port, the same of the client, state, queues, timer, retransmissions, user ID, timeout, inode.
    row = re.compile(
        rf"^ *\d+: [\dA-F]+:({choice}) [\dA-F]+:([\dA-F]+) ([\dA-F]+) [\dA-F]+:([\dA-F]+)"
        r" \S+ \S+ +(\d+) +\d+ (\d+)",
        re.MULTILINE,
    )
    for table in _TABLES:
        for local, remote, state, queue, owner, inode in row.findall(table.read_text()) if table.exists() else ():
            port = found[int(local, 16)]
            # In the row of a listening socket, this is the number of connections that were not accepted.
            port.unread += int(queue, 16)
            if int(state, 16) == _LISTEN:
                port.owners.add(int(owner))
            elif int(state, 16) == _ESTABLISHED and inode == "0":
                port.pending.add(int(remote, 16))
    return found
