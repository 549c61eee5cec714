"""Receives the listening sockets that systemd passes to the service: sd_listen_fds(3), systemd.socket(5)."""

import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Iterable

from gateway.contracts.config_types import HostPort
from gateway.forwarding.listener import prepare

log = logging.getLogger(__name__)

_FIRST = 3
"""The number of the first file descriptor that systemd passes (SD_LISTEN_FDS_START)."""


class PassedSockets:
    """The listening sockets that systemd passed to the service.

    While the service restarts, systemd keeps the sockets open, and new clients wait.

    Args:
        sockets: The passed sockets; this object owns them. Listeners get duplicates, so that a reload can close a
            listener and open it again.
    """

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        self._sockets = {key: sock for sock in sockets if (key := _key(sock)) is not None}

    def duplicates(self, address: HostPort) -> list[socket.socket] | None:
        """Duplicate the sockets that systemd passed for an address. The caller owns the duplicates.

        Returns:
            The duplicates; None if systemd passed no socket for this address.

        Raises:
            OSError: A socket cannot be duplicated.
        """
        found = [self._sockets[key] for key in _keys(address) if key in self._sockets]
        copies: list[socket.socket] = []
        try:
            for sock in found:
                copies.append(sock.dup())
                prepare(copies[-1])
        except BaseException:
            for copy in copies:
                copy.close()
            raise
        return copies or None

    def warn_unused(self, addresses: Iterable[HostPort]) -> None:
        """Log a warning for each passed socket that no listener uses, because clients of that socket wait forever.

        Args:
            addresses: The addresses of all listeners.
        """
        used = {key for address in addresses for key in _keys(address)}
        for key in sorted(self._sockets.keys() - used):
            detail = f"no backend listens on {key}: remove this address from the socket unit, or add a backend"
            log.warning("systemd passed a socket that is not used", extra={"detail": detail})


def passed_sockets() -> PassedSockets:
    """Return the sockets that systemd passed to this process, and prevent child processes from inheriting them."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return PassedSockets()
    found = []
    for descriptor in range(_FIRST, _FIRST + int(count)):
        try:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
        except OSError as error:  # the descriptor is not a socket, but for example a FIFO or a message queue
            log.warning(
                "systemd passed a descriptor that is not a socket",
                extra={"detail": f"{descriptor}: {error.strerror}: use only ListenStream= in the socket unit"},
            )
            continue
        if _key(sock) is None:
            sock.close()
            log.warning(
                "systemd passed a socket that is not a listening stream socket",
                extra={"detail": "use ListenStream= and Accept=no in the socket unit"},
            )
        else:
            found.append(sock)
    return PassedSockets(found)


def _key(sock: socket.socket) -> str | None:
    """Return the address of a listening stream socket as text; None if the socket is of another type."""
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return None
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return str(name)
    return _of_host(name[0], name[1]) if sock.family in (socket.AF_INET, socket.AF_INET6) else None


def _keys(address: HostPort) -> list[str]:
    """Return the key (see `_key`) of each socket that a listener at `address` needs."""
    if address.is_unix:
        return [address.host]
    hosts = ["127.0.0.1", "::1"] if address.host == "localhost" else [address.host]
    return [_of_host(host, address.port) for host in hosts]


def _of_host(host: str, port: int) -> str:
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return str(HostPort(host, port))
