"""Defines the interface through which checks get the state of a tunnel, and a link to connect to targets."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.contracts.link import SocketConnector


class MonitoredUplink(Protocol):
    """Defines the interface of uplinks for checks. An uplink is the object that keeps a tunnel open."""

    name: str
    settled: asyncio.Event
    watchers: list[Callable[[], None]]

    @property
    def link(self) -> SocketConnector | None:
        """The link through the open tunnel; None while the tunnel is not open."""

    def describe(self) -> str:
        """Return one line that describes the tunnel's state, and the cause of that state."""
