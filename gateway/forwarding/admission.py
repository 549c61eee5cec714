"""Who may come in, and how many: decides only, and counts nothing."""

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from gateway.relay.sockets import Peer, peer_of

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_FIRST_UNPRIVILEGED_PORT = 1024


class Refusal(StrEnum):
    """Why a client was turned away before anything was dialled."""

    NOT_ALLOWED = "not_allowed"
    UNPRIVILEGED_PORT = "unprivileged_port"
    MAX_CONNECTIONS = "max_connections"
    UNKNOWN_CONSUMER = "unknown_consumer"
    CONSUMER_QUOTA = "consumer_quota"


class Consumer(Protocol):
    """Who is behind a source address."""

    @property
    def name(self) -> str:
        """Its name, for people and metrics."""

    @property
    def id(self) -> str:
        """What tells it from another of the same name."""

    def has(self, label: str, backend: str) -> bool:
        """Whether a label of it names the backend."""


class Identity(Protocol):
    """Knows consumers by their addresses."""

    def known(self, address: str) -> Consumer | None:
        """Who has the address, as far as is known."""

    def stranger(self, address: str) -> bool:
        """Whether the address was looked for a moment ago, and is nobody's."""

    async def find(self, address: str, within: float) -> Consumer | None:
        """Who has the address; waits so many seconds for one that has just started."""


@dataclass(frozen=True)
class Source:
    """Where a client comes from: an IP address and port; or a unix socket's path, and the peer's process."""

    address: str | None = None
    port: int = 0
    path: str = ""
    peer: Peer | None = None

    def __str__(self) -> str:
        if self.address is None:
            return "unix"
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @classmethod
    def of(cls, client: socket.socket) -> "Source | None":
        """The client's; None when it is gone already."""
        try:
            if client.family == socket.AF_UNIX:
                process = peer_of(client)
                return cls(path=client.getsockname(), peer=process) if process is not None else None
            peer = client.getpeername()
        except OSError:
            return None
        return cls(peer[0].partition("%")[0], peer[1])


@dataclass(frozen=True)
class SocketConsumer:
    """A `Consumer` that is known by the unix socket that it connects to."""

    name: str
    id: str = ""

    def has(self, label: str, backend: str) -> bool:
        """Always: the configuration gave it the socket."""
        del label, backend
        return True


@dataclass(frozen=True)
class SocketRule:
    """Who may use a unix socket.

    Args:
        consumer: Whose connections these are; None: they are not counted apart.
        uids: Users that may connect; empty: all.
        gids: Main groups that may connect; empty: all.
    """

    consumer: SocketConsumer | None = None
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def admits(self, source: Source) -> bool:
        """Whether the peer's user and group are among these."""
        peer = source.peer
        if peer is None:
            return not self.uids and not self.gids
        return (not self.uids or peer.uid in self.uids) and (not self.gids or peer.gid in self.gids)


@dataclass(frozen=True)
class Admission:
    """The rules of one backend.

    Args:
        backend: Its name.
        allow: Networks that may connect; empty: everybody.
        label: The label that a consumer must have; None: none.
        max_connections: Clients at once.
        per_consumer: Clients of one consumer at once; None: as many as there may be.
        privileged_only: Only source ports below 1024, which an unprivileged local user cannot have.
        identity: Who knows consumers; None: nobody does.
        sockets: Who may use which unix socket, by path; the others are the file system's affair.
    """

    backend: str
    allow: tuple[Network, ...] = ()
    label: str | None = None
    max_connections: int = 1000
    per_consumer: int | None = None
    privileged_only: bool = False
    identity: Identity | None = None
    sockets: Mapping[str, SocketRule] = field(default_factory=dict)

    @property
    def looks(self) -> bool:
        """Whether it matters where a client comes from."""
        matters = (self.allow, self.privileged_only, self.label, self.identity, self.per_consumer, self.sockets)
        return any(matters)

    def socket_consumer(self, source: Source | None) -> SocketConsumer | None:
        """The consumer whose unix socket a client has connected to; None: there is none."""
        rule = self.sockets.get(source.path) if source is not None else None
        return rule.consumer if rule is not None else None

    def refusal(self, source: Source | None, open_connections: int) -> Refusal | None:
        """None when a client from there may come in, as far as its consumer does not matter; else why not."""
        if open_connections >= self.max_connections:
            return Refusal.MAX_CONNECTIONS
        if source is None:
            return Refusal.NOT_ALLOWED if self.looks else None
        if source.address is None:
            rule = self.sockets.get(source.path)
            return None if rule is None or rule.admits(source) else Refusal.NOT_ALLOWED
        if self.allow:
            address = ipaddress.ip_address(source.address)
            if not any(address in network for network in self.allow):
                return Refusal.NOT_ALLOWED
        if self.privileged_only and source.port >= _FIRST_UNPRIVILEGED_PORT:
            return Refusal.UNPRIVILEGED_PORT
        return None

    def consumer_refusal(self, consumer: Consumer | None, open_connections: int) -> Refusal | None:
        """None when this consumer, with so many connections open, may have another one; else why not."""
        if self.label is not None:
            if consumer is None:
                return Refusal.UNKNOWN_CONSUMER
            if not consumer.has(self.label, self.backend):
                return Refusal.NOT_ALLOWED
        if self.per_consumer is not None and open_connections >= self.per_consumer:
            return Refusal.CONSUMER_QUOTA
        return None
