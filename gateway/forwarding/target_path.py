"""Defines targets together with the uplinks (tunnels or direct links) that lead to them."""

from typing import NamedTuple, Protocol

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.metric_types import Histogram


class LinkProvider(Protocol):
    """Defines the interface of an uplink, which provides the current link of a tunnel, or the direct link."""

    tunnel_name: str | None
    """Name of the tunnel; None if the link is the direct link."""
    link: Link | None
    """The open link; None while the tunnel is down, or while the server of the tunnel does not respond."""
    channel_open: Histogram
    """Histogram of the durations of dials through the tunnel, in seconds."""

    async def wait_link(self) -> Link:
        """Wait until the tunnel is open, and return its link."""


class TargetIdentity(NamedTuple):
    """The identity of a target: its address, and the uplinks that lead to it.

    The address alone is not enough, because the same address can belong to a different server behind another uplink.
    """

    target: HostPort
    uplinks: tuple[LinkProvider, ...]

    @property
    def open_uplink(self) -> LinkProvider | None:
        """The first uplink that has a link; None if no uplink has a link."""
        return next((each for each in self.uplinks if each.link is not None), None)

    @property
    def link(self) -> Link | None:
        """The link of the first uplink that has a link; None if no uplink has a link."""
        uplink = self.open_uplink
        return uplink.link if uplink is not None else None

    def paths(self) -> tuple["TargetPath", ...]:
        """Return one path to the target for each uplink."""
        return tuple(TargetPath(self, uplink) for uplink in self.uplinks)


class TargetPath(NamedTuple):
    """A path (see the glossary): a target, and the uplink through which clients reach it."""

    identity: TargetIdentity
    uplink: LinkProvider

    @property
    def target(self) -> HostPort:
        """The address of the target."""
        return self.identity.target
