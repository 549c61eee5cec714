"""Defines the interface through which checks use an uplink: the state of a tunnel, and its link."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.contracts.link import Connector


class MonitoredUplink(Protocol):
    """Defines the interface through which checks use an uplink, that is, the object that keeps a tunnel open."""

    name: str
    settled: asyncio.Event
    watchers: list[Callable[[], None]]

    @property
    def link(self) -> Connector | None:
        """The link through the open tunnel; None while the tunnel is not open."""

    def describe(self) -> str:
        """Return one line that describes the tunnel's state and its cause."""
