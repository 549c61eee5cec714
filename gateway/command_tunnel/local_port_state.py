"""Reads the state of local TCP ports from the kernel, such as unaccepted connections and unread data."""

import functools
import ipaddress
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - to recognize listeners
ESTABLISHED, LISTEN = 0x01, 0x0A
"""TCP states, from the kernel's net/tcp_states.h."""


@dataclass
class LocalPortState:
    """The state of one local port: its listening sockets, its connections, and their unread bytes.

    Args:
        owners: The user IDs that own the listening sockets.
        listeners: The inodes of the listening sockets.
        backlog: Number of connections that the program has not accepted yet.
        unread: The number of bytes that the program has not read yet, for each accepted connection. The key is the
            port of the connection's client.
        pending: The client ports of the connections that the program has not accepted yet.
    """

    owners: set[int] = field(default_factory=set)
    listeners: set[int] = field(default_factory=set)
    backlog: int = 0
    unread: dict[int, int] = field(default_factory=dict)
    pending: set[int] = field(default_factory=set)

    @property
    def has_waiting_clients(self) -> bool:
        """Whether a connection waits to be accepted, or all accepted connections have unread data.

        Unread data on only some connections does not count, because the program probably waits until the target
        accepts more data on these connections.
        """
        return self.backlog > 0 or (bool(self.unread) and all(self.unread.values()))

    def has_progress_since(self, earlier: "LocalPortState") -> bool:
        """Return whether the program has read data or accepted a connection since an earlier state.

        The end of a connection with unread data is not progress, because the client might have ended the connection.

        Args:
            earlier: An earlier state of the same port.
        """
        read = any(self.unread.get(client, count) < count for client, count in earlier.unread.items())
        return read or self.backlog < earlier.backlog


def read_local_ports(ports: Mapping[int, str]) -> dict[int, LocalPortState]:
    """Return the state of local ports, from `/proc/net/tcp` and `/proc/net/tcp6` (proc_pid_net(5)).

    Ignores sockets on other loopback addresses, for example 127.0.0.2, because any user can listen there on the same
    port. The function blocks, and takes longer on a host with many connections, because the tables are then large.

    Args:
        ports: A mapping from each TCP port to the address that clients dial (127.0.0.1 or ::1).

    Raises:
        OSError: A table cannot be read.
    """
    found = {port: LocalPortState() for port in ports}
    best = dict.fromkeys(ports, len(_WILDCARDS) + 1)
    choice = "|".join(f"{port:04X}" for port in ports)
    # The columns of /proc/net/tcp: local address and port, remote address and port, state, send and receive queue,
    # timer, retransmissions, user ID, timeout, inode.
    row = re.compile(
        rf"^ *\d+: ([\dA-F]+):({choice}) [\dA-F]+:([\dA-F]+) ([\dA-F]+) [\dA-F]+:([\dA-F]+)"
        r" \S+ \S+ +(\d+) +\d+ (\d+)",
        re.MULTILINE,
    )
    for table in _TABLES:
        for address, local, remote, state, queue, owner, inode in row.findall(
            table.read_text() if table.exists() else ""
        ):
            number = int(local, 16)
            port = found[number]
            rank = _ranks(ports[number]).get(address)
            if rank is None:
                continue
            if int(state, 16) == LISTEN:
                if rank > best[number]:
                    continue
                # The kernel passes a connection only to the listening sockets with the most specific address.
                if rank < best[number]:
                    best[number] = rank
                    port.owners, port.listeners, port.backlog = set(), set(), 0
                port.owners.add(int(owner))
                port.listeners.add(int(inode))
                port.backlog += int(queue, 16)
            elif rank == 0 and inode != "0":
                port.unread[int(remote, 16)] = int(queue, 16)
            elif rank == 0 and int(state, 16) == ESTABLISHED:
                port.pending.add(int(remote, 16))
    return found


@functools.cache
def _ranks(host: str) -> Mapping[str, int]:
    """Return the addresses on which a program can listen for connections to `host`, each with its rank.

    The addresses are in the format of `_hex`. A more specific address has a lower rank. The kernel passes a
    connection to the listening socket with the lowest rank.
    """
    exact = ("127.0.0.1", "::ffff:127.0.0.1") if host == "127.0.0.1" else (host,)
    wildcards = _WILDCARDS if host == "127.0.0.1" else _WILDCARDS[1:]
    return {_hex(each): 0 for each in exact} | {_hex(each): rank for rank, each in enumerate(wildcards, 1)}


def _hex(address: str) -> str:
    """Return an address in the format of the kernel's tables: hexadecimal 32-bit words in the host's byte order."""
    packed = ipaddress.ip_address(address).packed
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))
