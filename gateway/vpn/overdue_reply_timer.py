"""Measures how long an expected reply of a VPN has been missing, to detect a VPN that failed. Does no I/O."""

import math
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class OverdueReplyThresholds:
    """Defines for how many seconds an expected reply must be missing before each `OverdueReplyLevel` begins.

    Args:
        suspect: Seconds after which new clients wait.
        reconnect: Seconds after which the VPN starts to reconnect repeatedly, with the same device.
        down: Seconds after which the gateway reports the tunnel as down.
        lost: Seconds after which the gateway resets existing client connections.
        restart: Seconds after which the gateway replaces the child process and the device.
    """

    suspect: float = 5.0
    reconnect: float = 7.0
    down: float = 22.0
    lost: float = 60.0
    restart: float = 300.0


DIAL_GRACE = 4.0
"""Seconds added to each threshold if only the reply to a connection attempt is missing. The cause can be the target
instead of the VPN. A VPN that works usually delivers another packet within these seconds."""
RECONNECT_INTERVAL = 6.0
"""Seconds between two attempts to reconnect the VPN with the same device."""


class OverdueReplyLevel(StrEnum):
    """How long replies have been missing, from `fine` (no reply is missing) to `restart` (replace the device)."""

    FINE = "fine"
    SUSPECT = "suspect"
    RECONNECT = "reconnect"
    DOWN = "down"
    LOST = "lost"
    RESTART = "restart"


class OverdueReplyTimer:
    """Measures how long an expected reply of one VPN has been missing. All times are monotonic, in seconds.

    Args:
        thresholds: The times after which the levels begin.
        now: The current monotonic time.
    """

    def __init__(self, thresholds: OverdueReplyThresholds, now: float) -> None:
        self._thresholds = thresholds
        self.last_reply = now
        self._echo_sent: float | None = None
        self._dialed: float | None = None
        self._received = 0
        self._last_reconnect = -math.inf

    def record_reply(self, now: float) -> None:
        """Record that a packet has arrived through the VPN. Until the next request, no reply is expected."""
        self.last_reply = now
        self._echo_sent = self._dialed = None
        self._last_reconnect = -math.inf

    def record_received(self, total: int, now: float) -> bool:
        """Record the current value of the receive counter. An increase counts as a reply.

        Args:
            total: Number of bytes received so far. It decreases when the counter is reset.
            now: The current time.

        Returns:
            Whether the counter increased.
        """
        increased = total > self._received
        if increased:
            self.record_reply(now)
        self._received = total
        return increased

    def record_echo_request(self, now: float) -> None:
        """Record an echo request to a host that has replied before. A reply is expected from this time on."""
        if self._echo_sent is None:
            self._echo_sent = now

    def record_dial(self, now: float) -> None:
        """Record a connection attempt to a target. The target's reply counts as missing only after `DIAL_GRACE`."""
        if self._dialed is None:
            self._dialed = now

    def overdue(self, now: float) -> float:
        """Return the number of seconds for which an expected reply has been missing; 0 if no reply is expected."""
        echo = now - self._echo_sent if self._echo_sent is not None else 0.0
        dial = now - self._dialed - DIAL_GRACE if self._dialed is not None else 0.0
        return max(0.0, echo, dial)

    def level(self, now: float) -> OverdueReplyLevel:
        """Return how serious the delay of an expected reply is at `now`."""
        overdue, thresholds = self.overdue(now), self._thresholds
        for threshold, level in (
            (thresholds.restart, OverdueReplyLevel.RESTART),
            (thresholds.lost, OverdueReplyLevel.LOST),
            (thresholds.down, OverdueReplyLevel.DOWN),
            (thresholds.reconnect, OverdueReplyLevel.RECONNECT),
            (thresholds.suspect, OverdueReplyLevel.SUSPECT),
        ):
            if overdue >= threshold:
                return level
        return OverdueReplyLevel.FINE

    def start_reconnect(self, now: float) -> bool:
        """Return whether the caller must reconnect the VPN now. If so, store `now` as the time of the attempt."""
        if self.overdue(now) < self._thresholds.reconnect or now - self._last_reconnect < RECONNECT_INTERVAL:
            return False
        self._last_reconnect = now
        return True
