"""Letting go of clients a few at a time, so that they do not all come back in the same moment. Pure."""

from gateway.contracts import Relay

SHARE_PER_SECOND = 0.1


class Pace:
    """How many clients should have been let go by now.

    Args:
        clients: How many there were at the start.
        now: The monotonic time of the start, in seconds.
    """

    def __init__(self, clients: int, now: float) -> None:
        self.clients = clients
        self._started = now
        self._gone = 0

    def due(self, now: float) -> int:
        """How many more to let go at the monotonic time `now`; they count as gone."""
        due = int((now - self._started) * SHARE_PER_SECOND * self.clients) - self._gone
        self._gone += due
        return due


def first_to_go(relays: list[Relay], count: int) -> list[Relay]:
    """Those that lose least: that wait for no answer, and have been silent longest."""
    return sorted(relays, key=lambda relay: (relay.asked, relay.last_active))[:count]
