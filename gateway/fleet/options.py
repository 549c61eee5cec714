"""Defines the section `fleet` of the configuration."""

from dataclasses import dataclass, field
from pathlib import Path

from gateway.contracts.config_types import POSITIVE, Duration
from gateway.fleet.member_addresses import MemberAddress
from gateway.tls_client_context import TlsClientFiles


@dataclass(frozen=True)
class FleetOptions:
    """The section `fleet`: the gateways that this gateway shows on `/fleet`; see docs/fleet.md.

    Args:
        members: The addresses of the gateways, from their `ops.listen`: `host:port` or `https://host:port`. With the
            prefix `dns+`, each IP address of the host name is one gateway.
        file: A file with one address per line. The gateway reads it every 15 seconds.
        token_file: A file with the token that the gateway sends to each member. The `ops.token_file` of each member
            must contain the same token.
        tls: Certificates for members with `https://`.
        interval: Time between two requests to a member, with a jitter of 5 %.
        timeout: Time limit for each request, each DNS lookup, and each read of the files.
    """

    members: tuple[MemberAddress, ...] = ()
    file: Path | None = None
    token_file: Path | None = None
    tls: TlsClientFiles = field(default_factory=TlsClientFiles)
    interval: Duration = field(default=Duration(15.0), metadata=POSITIVE)
    timeout: Duration = field(default=Duration(2.0), metadata=POSITIVE)

    @property
    def is_empty(self) -> bool:
        """Whether neither `members` nor `file` is configured."""
        return not self.members and self.file is None
