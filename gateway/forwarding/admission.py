"""Defines the rules that admit or refuse clients, by address, container and number of connections. Does no I/O."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.contracts.config_types import IpNetwork
from gateway.forwarding.client_identity import (
    ClientSourceAddress,
    ConsumerIdentity,
    ConsumerResolver,
    UnixSocketConsumer,
)

_FIRST_UNPRIVILEGED_PORT = 1024


class RefusalReason(StrEnum):
    """Why a rule refused a client. The gateway dials no target for a refused client."""

    NOT_ALLOWED = "not_allowed"
    UNPRIVILEGED_PORT = "unprivileged_port"
    MAX_CONNECTIONS = "max_connections"
    UNKNOWN_CONSUMER = "unknown_consumer"
    CONSUMER_QUOTA = "consumer_quota"


@dataclass(frozen=True)
class UnixSocketRule:
    """Determines which users of the host may connect to one unix socket.

    Args:
        consumer: The consumer to which all connections of the socket belong; None if there is none.
        uids: User IDs that are allowed to connect; empty to allow all.
        gids: Primary group IDs that are allowed to connect; empty to allow all.
    """

    consumer: UnixSocketConsumer | None = None
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def admits(self, source: ClientSourceAddress) -> bool:
        """Return whether the user and the group of the client's process are allowed to connect."""
        peer = source.peer
        if peer is None:
            return not self.uids and not self.gids
        return (not self.uids or peer.uid in self.uids) and (not self.gids or peer.gid in self.gids)


@dataclass(frozen=True)
class AdmissionRules:
    """The rules that decide which clients one backend admits.

    Args:
        backend: The backend's name.
        allow: Networks that are allowed to connect; empty to allow all.
        label: The name of the label in which a consumer must list the backend; None if no label is required.
        max_connections: Limit on concurrent connections.
        per_consumer: Limit on concurrent connections of one consumer; None for no limit.
        privileged_only: Whether to admit only source ports below 1024, which only privileged processes can bind.
        identity: Maps source addresses to consumers; None if the gateway does not identify containers.
        sockets: The access rule of each unix socket. The key is the socket's path. Only file permissions protect a
            socket without a rule.
    """

    backend: str
    allow: tuple[IpNetwork, ...] = ()
    label: str | None = None
    max_connections: int = 1000
    per_consumer: int | None = None
    privileged_only: bool = False
    identity: ConsumerResolver | None = None
    sockets: Mapping[str, UnixSocketRule] = field(default_factory=dict)

    @property
    def needs_source(self) -> bool:
        """Whether any rule depends on the client's source."""
        return bool(self.allow) or self.needs_identity

    @property
    def needs_identity(self) -> bool:
        """Whether a rule or a usage counter depends on the client's consumer, source port or unix socket."""
        rules = (self.privileged_only, self.label, self.identity, self.per_consumer, self.sockets)
        return any(rules)

    def socket_consumer(self, source: ClientSourceAddress | None) -> UnixSocketConsumer | None:
        """Return the consumer that is assigned to the client's unix socket; None if there is none."""
        rule = self.sockets.get(source.path) if source is not None else None
        return rule.consumer if rule is not None else None

    def refusal(self, source: ClientSourceAddress | None, open_connections: int) -> RefusalReason | None:
        """Check the rules that do not depend on the consumer.

        Args:
            source: The client's source; None if the client has disconnected.
            open_connections: Number of current connections of the backend.

        Returns:
            The reason to refuse the client; None if these rules admit the client.
        """
        if open_connections >= self.max_connections:
            return RefusalReason.MAX_CONNECTIONS
        if source is None:
            return RefusalReason.NOT_ALLOWED if self.needs_source else None
        if source.address is None:
            rule = self.sockets.get(source.path)
            return None if rule is None or rule.admits(source) else RefusalReason.NOT_ALLOWED
        if self.allow:
            address = ipaddress.ip_address(source.address)
            if not any(address in network for network in self.allow):
                return RefusalReason.NOT_ALLOWED
        if self.privileged_only and source.port >= _FIRST_UNPRIVILEGED_PORT:
            return RefusalReason.UNPRIVILEGED_PORT
        return None

    def consumer_refusal(self, consumer: ConsumerIdentity | None, open_connections: int) -> RefusalReason | None:
        """Check the rules that depend on the consumer.

        Args:
            consumer: The client's consumer; None if it is unknown.
            open_connections: Number of current connections of this consumer.

        Returns:
            The reason to refuse the client; None if these rules admit the client.
        """
        if self.label is not None:
            if consumer is None:
                return RefusalReason.UNKNOWN_CONSUMER
            if not consumer.has(self.label, self.backend):
                return RefusalReason.NOT_ALLOWED
        if self.per_consumer is not None and open_connections >= self.per_consumer:
            return RefusalReason.CONSUMER_QUOTA
        return None
