"""Defines the interface through which checks use uplinks."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.contracts.link import SocketConnector


class MonitoredUplink(Protocol):
    """The interface through which a check uses an uplink. An uplink keeps one tunnel open."""

    name: str
    settled: asyncio.Event
    watchers: list[Callable[[], None]]

    @property
    def link(self) -> SocketConnector | None:
        """The link through the open tunnel; None while the tunnel is not open."""

    def describe(self) -> str:
        """Return one line that describes the tunnel's state, and the cause of that state."""
