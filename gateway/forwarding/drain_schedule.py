"""Spreads the closing of connections over the drain, so that clients do not all reconnect at once. Does no I/O."""

from gateway.contracts.relay import Relay

SHARE_PER_SECOND = 0.1
"""Fraction of the initial connections that a drain closes per second."""


class DrainSchedule:
    """Computes how many connections a drain must have closed at a given time.

    Args:
        clients: Number of connections at the start of the drain.
        now: Monotonic time at the start of the drain, in seconds.
    """

    def __init__(self, clients: int, now: float) -> None:
        self.clients = clients
        self._started = now
        self._closed = 0

    def due(self, now: float) -> int:
        """Return the number of connections to close now, and count them as closed. `now` is the monotonic time."""
        due = int((now - self._started) * SHARE_PER_SECOND * self.clients) - self._closed
        self._closed += due
        return due


def drain_order(relays: list[Relay], count: int) -> list[Relay]:
    """Return the `count` connections to close first.

    Connections that wait for a response come after all others. In both groups, the connections that have been silent
    longest come first.
    """
    return sorted(relays, key=lambda relay: (relay.awaiting_response, relay.last_active))[:count]
