"""Who may come in, and how many: decides only, and counts nothing."""

import ipaddress
import socket
from enum import StrEnum

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_FIRST_UNPRIVILEGED_PORT = 1024


class Refusal(StrEnum):
    """Why a client was turned away before anything was dialled."""

    NOT_ALLOWED = "not_allowed"
    UNPRIVILEGED_PORT = "unprivileged_port"
    MAX_CONNECTIONS = "max_connections"


class Admission:
    """The rules of one backend.

    Args:
        allow: Networks that may connect; empty: everybody.
        max_connections: Clients at once.
        privileged_only: Only source ports below 1024, which an unprivileged local user cannot have.
    """

    def __init__(self, allow: tuple[Network, ...], max_connections: int, *, privileged_only: bool) -> None:
        self._allow = allow
        self._max = max_connections
        self._privileged_only = privileged_only

    def refusal(self, client: socket.socket, open_connections: int) -> Refusal | None:
        """None when `client` may come in, else why not."""
        if open_connections >= self._max:
            return Refusal.MAX_CONNECTIONS
        if client.family == socket.AF_UNIX or not (self._allow or self._privileged_only):
            return None  # who may open a unix socket is the file system's affair
        try:
            peer = client.getpeername()
        except OSError:
            return Refusal.NOT_ALLOWED  # gone already
        address = ipaddress.ip_address(peer[0].partition("%")[0])
        if self._allow and not any(address in network for network in self._allow):
            return Refusal.NOT_ALLOWED
        if self._privileged_only and peer[1] >= _FIRST_UNPRIVILEGED_PORT:
            return Refusal.UNPRIVILEGED_PORT
        return None
