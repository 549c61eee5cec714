"""Looks up connections to a local port, and listening sockets, with sock_diag(7).

For these lookups, the kernel uses hash tables. In contrast, `/proc/net/tcp` lists all TCP sockets of the host, which
takes 70 ms with 16,000 sockets.
"""

import logging
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from gateway.command_tunnel.local_port_state import ESTABLISHED, LISTEN, LocalPortState, read_local_ports

log = logging.getLogger(__name__)

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLM_F_DUMP = 0x300
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_ALL_STATES = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
"""The fields of `struct nlmsghdr` (netlink(7))."""
_REQUEST = struct.Struct("=BBBxI2s2s16s16sI8s")
"""The fields of `struct inet_diag_req_v2` (linux/inet_diag.h)."""
_RESPONSE = struct.Struct("=BBBB48xIIIII")
"""Selected fields of `struct inet_diag_msg` (linux/inet_diag.h)."""
_MAX_RESPONSE = 32768
_TIMEOUT = 5.0
"""Maximum number of seconds to wait for the next part of the kernel's reply."""


class _SocketEntry(NamedTuple):
    state: int
    queue: int
    owner: int
    inode: int


def read_connection(host: str, port: int, client: int) -> LocalPortState:
    """Return the state of a local port and of one connection to it.

    `backlog` counts the unaccepted connections of all clients. If sock_diag is not available or does not find a
    socket, return the result of `read_local_ports`, which blocks for longer and includes the connections of all
    clients.

    Args:
        host: The address that the client has dialed: 127.0.0.1 or ::1.
        port: The TCP port.
        client: The local TCP port of the connected client.

    Returns:
        The state of the port. If the state comes from sock_diag, `owners` also contains the user who accepted the
            connection, and `unread` is empty.

    Raises:
        OSError: sock_diag does not work, and a socket table in /proc cannot be read.
    """
    try:
        connection = _find(host, port, client)
        listener = connection if connection.state == LISTEN else _find(host, port, 0)
    except OSError as error:
        log.debug("sock_diag does not find a connection, so the socket tables in /proc are read: %s", error)
        return read_local_ports({port: host})[port]
    found = LocalPortState({listener.owner}, {listener.inode}, listener.queue)
    if connection.inode:  # the inode is not 0 after a process has accepted the connection
        found.owners.add(connection.owner)
    elif connection.state == ESTABLISHED:
        found.pending.add(client)
    return found


def _find(host: str, port: int, client: int) -> _SocketEntry:
    """Return the socket that receives packets from port `client` to port `port`, both on the address `host`.

    This socket is the program's end of the connection, or the listener if the connection does not exist. If `client`
    is 0, return the listener.

    Raises:
        OSError: sock_diag is not available, or finds no socket.
    """
    address = ip_address(host)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    ends = port.to_bytes(2), client.to_bytes(2), address.packed, address.packed if client else b""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as netlink:
        netlink.sendto(_request(family, _ALL_STATES, *ends), (0, 0))
        # The kernel queues its reply before `sendto` returns, so `recv` does not need to wait.
        response = netlink.recv(_MAX_RESPONSE, socket.MSG_DONTWAIT)
    _raise_error(response)
    _, state, _, _, _, queue, _, owner, inode = _RESPONSE.unpack_from(response, _HEADER.size)
    return _SocketEntry(state, queue, owner, inode)


def is_listening(port: int) -> bool:
    """Return whether a socket in this network namespace listens on a TCP port, at any local address.

    Raises:
        OSError: The kernel has no sock_diag.
    """
    return any(port in _listening_ports(family) for family in (socket.AF_INET, socket.AF_INET6))


def _listening_ports(family: int) -> Iterator[int]:
    """Yield the ports of the listening TCP sockets of an address family.

    Raises:
        OSError: The kernel has no sock_diag.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_TIMEOUT)
        netlink.sendto(_request(family, 1 << LISTEN, flags=_NLM_F_DUMP), (0, 0))
        while True:
            messages = netlink.recv(_MAX_RESPONSE)
            while messages:
                length, kind, *_ = _HEADER.unpack_from(messages)
                if kind == _NLMSG_DONE:
                    return
                _raise_error(messages)
                # In `struct inet_diag_msg`, the source port is at offset 4.
                yield int.from_bytes(messages[_HEADER.size + 4 : _HEADER.size + 6])
                messages = messages[(length + 3) & ~3 :]


def _request(
    family: int, states: int, source: bytes = b"", to: bytes = b"", address: bytes = b"", peer: bytes = b"",
    *, flags: int = 0,
) -> bytes:  # fmt: skip
    """Return a message that requests the TCP sockets in certain states; see `struct inet_diag_req_v2`."""
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states, source, to, address, peer, 0, b"\xff" * 8)
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | flags, 1, 0) + body


def _raise_error(message: bytes) -> None:
    """Raise the error that a message from the kernel contains, if it contains one."""
    if _HEADER.unpack_from(message)[1] == _NLMSG_ERROR:
        number = -struct.unpack_from("=i", message, _HEADER.size)[0]
        raise OSError(number, os.strerror(number))
