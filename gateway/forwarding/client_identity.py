"""Identifies clients: their source (an address or a unix socket), and their consumer (a container or application)."""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Protocol

from gateway.relay.unix_sockets import PeerCredentials, peer_of


class ConsumerIdentity(Protocol):
    """Defines the name, ID and permissions of a consumer: the container or application to which a client belongs."""

    @property
    def name(self) -> str:
        """The name of the consumer, for messages and metrics."""

    @property
    def id(self) -> str:
        """An ID that distinguishes consumers with the same name, for example the container ID."""

    def has(self, label: str, backend: str) -> bool:
        """Return whether a grant or the label named `label` allows the consumer to use `backend`."""


class ConsumerResolver(Protocol):
    """Finds consumers, such as containers, by source address."""

    def lookup(self, address: str) -> ConsumerIdentity | None:
        """Return the consumer with this address; None if it is unknown."""

    def recently_unknown(self, address: str) -> bool:
        """Return whether a recent search found no consumer with this address, so that no new search is needed."""

    async def wait_for(self, address: str, within: float) -> ConsumerIdentity | None:
        """Return the consumer with this address. Wait up to `within` seconds for a container that is starting."""


@dataclass(frozen=True)
class ClientSourceAddress:
    """The source of a client: its IP address and port, or the path of its unix socket.

    For a unix socket, the source also contains the user, group and process ID of the client.
    """

    address: str | None = None
    port: int = 0
    path: str = ""
    peer: PeerCredentials | None = None

    def __str__(self) -> str:
        if self.address is None:
            return "unix"
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @classmethod
    def of(cls, client: socket.socket) -> "ClientSourceAddress | None":
        """Return the source of `client`; None if the client has disconnected."""
        try:
            if client.family == socket.AF_UNIX:
                peer = peer_of(client)
                return cls(path=client.getsockname(), peer=peer) if peer is not None else None
            name = client.getpeername()
        except OSError:
            return None
        address, port = name[0].partition("%")[0], name[1]
        if client.family == socket.AF_INET6:
            # A socket for both IP versions, such as one that systemd has bound, reports IPv4 addresses as IPv4-mapped
            # IPv6 addresses (RFC 4291, section 2.5.5.2).
            address = str(ipaddress.IPv6Address(address).ipv4_mapped or address)
        return cls(address, port)


@dataclass(frozen=True)
class UnixSocketConsumer:
    """The consumer to which the configuration assigns a unix socket; implements `ConsumerIdentity`."""

    name: str
    id: str = ""

    def has(self, label: str, backend: str) -> bool:
        """Return True: the configuration assigned the backend's unix socket to this consumer."""
        del label, backend
        return True
