"""Creates listening TCP sockets, optionally on addresses that the host does not have yet."""

import errno
import ipaddress
import logging
import socket
from typing import Any

log = logging.getLogger(__name__)

_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # these values are from linux/in.h and linux/in6.h

NO_IPV6_ERRNOS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""The error numbers that `listen_tcp` can raise for an IPv6 address if the host does not support IPv6."""


def listen_tcp(
    family: socket.AddressFamily, address: tuple[Any, ...], backlog: int, *, free_bind: bool
) -> socket.socket:
    """Create a TCP socket, bind it, and listen. The caller owns the socket.

    Args:
        family: AF_INET or AF_INET6. An IPv6 socket accepts no IPv4 clients.
        address: The address in the format of `socket.bind`. The first two items are the IP address and the port.
        backlog: Maximum number of connections in the kernel's accept queue (listen(2)).
        free_bind: Whether to bind the address even if the host does not have it yet (ip(7), IP_FREEBIND).
            For example, Docker can create a bridge with the address after the gateway starts. If the host does not
            have the address yet, the function logs a warning.

    Raises:
        OSError: The address cannot be bound.
    """
    host, port = address[:2]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as error:
            if not free_bind or error.errno != errno.EADDRNOTAVAIL or not _can_appear(host):
                raise
            _set_free_bind(sock)
            sock.bind(address)
            log.warning(
                "this host does not have the address of a listener yet: clients can connect when the address exists",
                extra={"listener": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"},
            )
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _can_appear(host: str) -> bool:
    """Return whether an interface can get this address later; False for loopback addresses, which always exist."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:  # `host` is not an IP address
        return False


def _set_free_bind(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
