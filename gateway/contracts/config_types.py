"""Defines the types of configuration values: durations, sizes, endpoints, and numbers with limits."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import NamedTuple, NewType

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network
Duration = NewType("Duration", float)
"""A duration in seconds. In a configuration, a duration has a unit: `500ms`, `10s`, `5m` or `1h`."""
Size = NewType("Size", int)
"""A size in bytes. In a configuration, a size has a unit: `64KiB`, `15MiB` or `1GB`."""
POSITIVE = {"above": 0}
"""Field metadata: the value must be greater than zero."""
AT_LEAST_ONE = {"least": 1}
"""Field metadata: the value must be at least one."""
NOT_EMPTY = {"not_empty": True}
"""Field metadata: the value must not be an empty list, because an absent list means everything, for example all
clients."""
PORT = {"least": 1, "most": 65535}
"""Field metadata: the value is a TCP port."""
SENSITIVE = {"sensitive": True}
"""Field metadata: the value can contain a secret although its type is not `Secret`. The status page hides it."""


class HostPort(NamedTuple):
    """A host name or address, and a TCP port. A host that starts with a slash is the path of a unix socket."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        """Whether the endpoint is a unix socket."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        if self.is_unix:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


ListenAddress = NewType("ListenAddress", HostPort)
"""An address or a unix socket on which the gateway listens. In a configuration, the value is an address with a port,
such as `127.0.0.1:3306`, or the path of the socket."""


def unix_host_port(path: Path) -> HostPort:
    """Return the address of a unix socket: its path as the host, and port 0."""
    return HostPort(str(path), 0)
