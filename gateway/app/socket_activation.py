"""Takes over the listening sockets that systemd passes to the service: sd_listen_fds(3), systemd.socket(5)."""

import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Iterable

from gateway.contracts.values import Endpoint
from gateway.forwarding.listener import prepare

log = logging.getLogger(__name__)

_FIRST = 3
"""The first passed descriptor (SD_LISTEN_FDS_START)."""


class PassedSockets:
    """The sockets that systemd bound. They stay open during a restart, and clients wait in their queues.

    Args:
        sockets: The passed sockets; this object owns them. Listeners get duplicates, so that a listener can be closed
            and opened again.
    """

    def __init__(self, sockets: Iterable[socket.socket] = ()) -> None:
        self._sockets = {key: sock for sock in sockets if (key := _key(sock)) is not None}

    def duplicates(self, address: Endpoint) -> list[socket.socket] | None:
        """Return new sockets for a listener, which owns them; None if systemd passed none for this address.

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

    def warn_unused(self, addresses: Iterable[Endpoint]) -> None:
        """Log a warning for each passed socket that no backend listens on, because its clients wait forever."""
        used = {key for address in addresses for key in _keys(address)}
        for key in sorted(self._sockets.keys() - used):
            detail = f"no backend listens on {key}: remove it from the socket unit, or add a backend"
            log.warning("systemd passed a socket that is not used", extra={"detail": detail})


def passed_sockets() -> PassedSockets:
    """Return the sockets that systemd passed to this process. Child processes do not inherit them."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return PassedSockets()
    found = []
    for descriptor in range(_FIRST, _FIRST + int(count)):
        try:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
        except OSError as error:  # the descriptor is a FIFO or a message queue
            log.warning(
                "systemd passed a descriptor that is not a socket",
                extra={"detail": f"{descriptor}: {error.strerror}"},
            )
            continue
        if _key(sock) is None:
            sock.close()
            log.warning(
                "systemd passed a socket that is not used", extra={"detail": "use ListenStream= and Accept=no"}
            )
        else:
            found.append(sock)
    return PassedSockets(found)


def _key(sock: socket.socket) -> str | None:
    """Return the address of a listening stream socket; None for another type of socket."""
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return None
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return str(name)
    return _of_host(name[0], name[1]) if sock.family in (socket.AF_INET, socket.AF_INET6) else None


def _keys(address: Endpoint) -> list[str]:
    """Return the addresses of the sockets of a listener."""
    if address.is_unix:
        return [address.host]
    hosts = ["127.0.0.1", "::1"] if address.host == "localhost" else [address.host]
    return [_of_host(host, address.port) for host in hosts]


def _of_host(host: str, port: int) -> str:
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return str(Endpoint(host, port))
