"""Defines what the gateway dials through one tunnel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TunnelDestinations:
    """What the gateway dials through one tunnel, so that the tunnel's server can permit exactly these connections.

    Args:
        name: The tunnel's name.
        options: The tunnel's options.
        targets: Each `host:port` that the tunnel dials.
        unix_sockets: Whether the tunnel dials at least one unix socket on the server.
    """

    name: str
    options: Any
    targets: Sequence[str]
    unix_sockets: bool
