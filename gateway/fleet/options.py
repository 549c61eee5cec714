"""Defines the section `fleet` of the configuration."""

from dataclasses import dataclass, field
from pathlib import Path

from gateway.contracts.values import POSITIVE, Duration
from gateway.fleet.members import MemberAddress
from gateway.tls_client import ClientTls


@dataclass(frozen=True)
class FleetOptions:
    """The section `fleet`: the gateways that this gateway shows on `/fleet`; see docs/fleet.md.

    Args:
        members: The addresses of `ops.listen` of the gateways: `host:port` or `https://host:port`. After `dns+`, each
            address of the host name is one gateway.
        file: A file with one address per line, which is read again when it changes.
        token_file: A file with the token that the gateway sends to each member. The members have it in
            `ops.token_file`.
        tls: Certificates for members with `https://`.
        interval: Time between two requests to a member, with a jitter of 5 %.
        timeout: Time for one request.
    """

    members: tuple[MemberAddress, ...] = ()
    file: Path | None = None
    token_file: Path | None = None
    tls: ClientTls = field(default_factory=ClientTls)
    interval: Duration = field(default=Duration(15.0), metadata=POSITIVE)
    timeout: Duration = field(default=Duration(2.0), metadata=POSITIVE)

    @property
    def is_empty(self) -> bool:
        """Whether the fleet has no members."""
        return not self.members and self.file is None
