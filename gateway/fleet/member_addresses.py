"""Parses the configured addresses of members, and creates a member for each address. Does no I/O."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.contracts.config_types import HostPort
from gateway.relay.resolver import is_loopback

_DISCOVER = "dns+"
MAX_MEMBERS = 1000
"""Maximum number of members in a fleet. It limits the number of polling tasks and lookup threads."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class MemberAddress(NamedTuple):
    """A configured address of one member, or a DNS name that resolves to several members.

    Args:
        scheme: `http` or `https`.
        endpoint: The host and port of the member's `ops.listen`.
        discover: Whether each IP address of the host name is a separate member. Set it for the name `tasks.SERVICE`
            of a swarm service, or for the DNS name of a headless Service in Kubernetes.
    """

    scheme: str
    endpoint: HostPort
    discover: bool = False

    def __str__(self) -> str:
        scheme = "https://" if self.scheme == "https" else ""
        return f"{_DISCOVER if self.discover else ''}{scheme}{self.endpoint}"

    @property
    def exposes_token(self) -> bool:
        """Whether the token would be sent to the member over the network without encryption."""
        return self.scheme == "http" and not is_loopback(self.endpoint.host)


@dataclass(frozen=True)
class Member:
    """One gateway of a fleet: its address, and the host name of its certificate.

    Args:
        scheme: `http` or `https`.
        endpoint: The address to connect to.
        server_name: The host name for which the member's certificate must be valid. None: the host of `endpoint`.
    """

    scheme: str
    endpoint: HostPort
    server_name: str | None = None

    @property
    def name(self) -> str:
        """The member's name in tables: its address.

        If the address is the result of a DNS lookup, the host name follows in parentheses.
        """
        return f"{self.endpoint} ({self.server_name})" if self.server_name else str(self.endpoint)

    def url(self, path: str) -> str:
        """Return the URL of an HTTP path on this member."""
        return f"{self.scheme}://{self.endpoint}{path}"


def parse_member(text: str) -> MemberAddress:
    """Parse `host:port` or `https://host:port`, optionally with the prefix `dns+`.

    Raises:
        ValueError: The string is not the address of a member. The message contains examples.
    """
    rest = text.removeprefix(_DISCOVER)
    url = rest if _SCHEME.match(rest) else f"http://{rest}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    extra = host and (parts.path.rstrip("/") or parts.query or parts.fragment or parts.username is not None)
    if (
        not text.isprintable()
        or not host
        or not port
        or extra
        or parts.scheme not in ("http", "https")
        or not re.fullmatch(r"[\w.:%-]+", host)
    ):
        raise ValueError(
            f"{text!r} is not the address of a gateway: write gateway-1.example.com:9090,"
            " https://gateway-1.example.com:9090, or dns+tasks.gateway:9090 for all IP addresses of a host name"
        )
    return MemberAddress(parts.scheme, HostPort(host, port), text.startswith(_DISCOVER))


def parse_file(text: str) -> tuple[list[MemberAddress], list[str]]:
    """Parse a file with one address per line. Return the addresses, and a message for each invalid line.

    Args:
        text: The content of the file. Empty lines and comments (from `#` to the end of the line) are ignored.

    Raises:
        ValueError: The file has more than `MAX_MEMBERS` addresses.
    """
    found, problems = [], []
    entries = [(number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), 1)]
    entries = [(number, entry) for number, entry in entries if entry]
    if len(entries) > MAX_MEMBERS:
        raise ValueError(
            f"the file has {len(entries)} addresses, more than {MAX_MEMBERS}: split the list between several gateways"
        )
    for number, entry in entries:
        try:
            found.append(parse_member(entry))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    return found, problems


def exposed_token(members: Iterable[MemberAddress]) -> str | None:
    """Return a warning about the first member that would receive the token without encryption.

    Return None if there is no such member.
    """
    exposed = next((each for each in members if each.exposes_token), None)
    return exposed and f"the token is sent to {exposed} without encryption: use https://, and set ops.tls there"


def expand(address: MemberAddress, hosts: list[str]) -> list[Member]:
    """Return a separate member for each IP address of a host name.

    Args:
        address: The configured address, with `discover` set.
        hosts: The IP addresses of the host name.
    """
    return [
        Member(address.scheme, HostPort(host, address.endpoint.port), address.endpoint.host)
        for host in sorted(set(hosts))
    ]
