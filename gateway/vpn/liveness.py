"""Decides whether a VPN is alive, by how long expected replies have been missing. Does no I/O."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class SilenceThresholds:
    """Seconds without an expected reply after which each `SilenceStage` begins.

    Args:
        suspect: New clients wait.
        reconnect: The VPN reconnects in place, repeatedly, and keeps its device.
        down: The gateway reports the tunnel as down.
        lost: The gateway resets existing clients.
        restart: The gateway replaces the child process and the device.
    """

    suspect: float = 5.0
    reconnect: float = 7.0
    down: float = 22.0
    lost: float = 60.0
    restart: float = 300.0


DIAL_GRACE = 4.0
"""Seconds to add to each threshold if the only missing reply is that to a connection attempt, because the target
might be down instead of the VPN. A VPN peer sends a packet at least every ten seconds."""
RECONNECT_INTERVAL = 6.0
"""Seconds between two attempts to reconnect in place."""


class SilenceStage(StrEnum):
    """How long a VPN has been silent: each stage causes a reaction, from waiting to a restart."""

    FINE = "fine"
    SUSPECT = "suspect"
    RECONNECT = "reconnect"
    DOWN = "down"
    LOST = "lost"
    RESTART = "restart"


class Liveness:
    """Measures how long an expected reply of one VPN has been missing. All times are monotonic, in seconds.

    Args:
        thresholds: When each stage begins.
        now: The current monotonic time.
    """

    def __init__(self, thresholds: SilenceThresholds, now: float) -> None:
        self._thresholds = thresholds
        self.last_reply = now
        self._echo_sent: float | None = None
        self._dialed: float | None = None
        self._received = 0
        self._last_reconnect = 0.0

    def record_reply(self, now: float) -> None:
        """Record that a packet has arrived through the VPN. After this call, no reply is expected."""
        self.last_reply = now
        self._echo_sent = self._dialed = None
        self._last_reconnect = 0.0

    def record_received(self, total: int, now: float) -> bool:
        """Record the current value of the receive counter. An increase counts as a reply.

        Args:
            total: Bytes received so far. If the value is lower than before, the counter was reset.
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
        """Record an echo request to a host that has answered before. After this call, a reply is expected."""
        if self._echo_sent is None:
            self._echo_sent = now

    def record_dial(self, now: float) -> None:
        """Record a connection attempt to a target."""
        if self._dialed is None:
            self._dialed = now

    def overdue(self, now: float) -> float:
        """Return the seconds for which an expected reply has been missing; 0 if no reply is expected."""
        echo = now - self._echo_sent if self._echo_sent is not None else 0.0
        dial = now - self._dialed - DIAL_GRACE if self._dialed is not None else 0.0
        return max(0.0, echo, dial)

    def stage(self, now: float) -> SilenceStage:
        """Return the current stage."""
        overdue, thresholds = self.overdue(now), self._thresholds
        for threshold, stage in (
            (thresholds.restart, SilenceStage.RESTART),
            (thresholds.lost, SilenceStage.LOST),
            (thresholds.down, SilenceStage.DOWN),
            (thresholds.reconnect, SilenceStage.RECONNECT),
            (thresholds.suspect, SilenceStage.SUSPECT),
        ):
            if overdue >= threshold:
                return stage
        return SilenceStage.FINE

    def start_reconnect(self, now: float) -> bool:
        """Return whether to reconnect in place now. If the result is true, record the time of this attempt."""
        if self.overdue(now) < self._thresholds.reconnect or now - self._last_reconnect < RECONNECT_INTERVAL:
            return False
        self._last_reconnect = now
        return True
