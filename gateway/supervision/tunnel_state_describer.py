"""Describes the states of several tunnels in one line, for messages."""

from collections.abc import Iterable
from typing import Protocol


class TunnelStateDescriber(Protocol):
    """Describes the state of a tunnel in one line. Uplinks implement this protocol."""

    def describe(self) -> str:
        """Return one line with the state of the tunnel and the cause of that state."""


def describe_all(tunnels: Iterable[TunnelStateDescriber]) -> str:
    """Return one line with the states of several tunnels. Identical descriptions appear only once."""
    return "; ".join(dict.fromkeys(tunnel.describe() for tunnel in tunnels))
