"""A target together with the uplink through which it is reached."""

from typing import NamedTuple, Protocol

from gateway.contracts.link import Link
from gateway.contracts.values import Endpoint
from gateway.measure import Histogram


class LinkSource(Protocol):
    """The part of an uplink that a forward uses."""

    tunnel_name: str | None
    """Name of the tunnel; None for the direct link."""
    link: Link | None
    """The open link; None while the tunnel is down or suspect."""
    channel_open: Histogram
    """Dial durations in seconds."""

    async def wait_link(self) -> Link:
        """Wait until there is a link, and return it."""


class RoutedTarget(NamedTuple):
    """A target and its uplink. The same address through another tunnel is a different server."""

    uplink: LinkSource
    target: Endpoint
