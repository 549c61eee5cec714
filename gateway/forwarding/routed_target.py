"""A target together with the uplink through which it is reached."""

from typing import NamedTuple, Protocol

from gateway.contracts.link import Link
from gateway.contracts.values import Endpoint
from gateway.measure import Histogram


class LinkSource(Protocol):
    """The part of an uplink that a forward uses."""

    tunnel_name: str | None
    """Name of the tunnel; None if the link is the direct link."""
    link: Link | None
    """The open link; None while the tunnel is down or suspect."""
    channel_open: Histogram
    """Dial durations in seconds."""

    async def wait_link(self) -> Link:
        """Wait until the tunnel is open, and return its link."""


class RoutedTarget(NamedTuple):
    """A target and its uplink. Through another tunnel, the same address can belong to a different server."""

    uplink: LinkSource
    target: Endpoint
