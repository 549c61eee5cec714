"""Where a backend's connections lead."""

from typing import NamedTuple, Protocol

from gateway.contracts import Endpoint, Link
from gateway.measure import Histogram


class Path(Protocol):
    """What a forward needs of a tunnel's uplink."""

    tunnel_name: str | None
    """Whose it is; None: the straight way, without a tunnel."""
    link: Link | None
    channel_open: Histogram

    async def wait_link(self) -> Link:
        """Wait until there is a link."""


class Place(NamedTuple):
    """A target, and the tunnel through which it is reached: elsewhere the same address is another server."""

    path: Path
    target: Endpoint
