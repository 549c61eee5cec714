"""Whether anything still comes through a VPN: what was asked, what was heard, and what follows from that. Pure."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class Patience:
    """Seconds of silence after a question, and what they lead to.

    Args:
        suspect: New clients wait.
        nudge: The connection is made anew in place, again and again.
        down: It is called down.
        lost: Its clients are reset.
        restart: The child is replaced.
    """

    suspect: float = 5.0
    nudge: float = 7.0
    down: float = 22.0
    lost: float = 60.0
    restart: float = 300.0


UNSURE = 4.0
"""Seconds more where only a connection to a target was asked for, which may be silent by itself: every VPN peer says
something within ten."""
NUDGE_EVERY = 6.0


class Stage(StrEnum):
    """What silence of some length leads to."""

    FINE = "fine"
    SUSPECT = "suspect"
    NUDGE = "nudge"
    DOWN = "down"
    LOST = "lost"
    RESTART = "restart"


class Vitals:
    """What was asked and heard, in monotonic seconds.

    Args:
        patience: When to lose it.
        now: The time.
    """

    def __init__(self, patience: Patience, now: float) -> None:
        self._patience = patience
        self.heard = now
        self._echo_asked: float | None = None
        self._dial_asked: float | None = None
        self._received = 0
        self._nudged = 0.0

    def hear(self, now: float) -> None:
        """Something came through."""
        self.heard = now
        self._echo_asked = self._dial_asked = None
        self._nudged = 0.0

    def count(self, received: int, now: float) -> bool:
        """So many bytes have been received in all; fewer than before: the count began anew. Says whether any came."""
        came = received > self._received
        if came:
            self.hear(now)
        self._received = received
        return came

    def ask_echo(self, now: float) -> None:
        """Somebody was asked who has answered before."""
        if self._echo_asked is None:
            self._echo_asked = now

    def ask_dial(self, now: float) -> None:
        """A connection was asked for."""
        if self._dial_asked is None:
            self._dial_asked = now

    def silence(self, now: float) -> float:
        """Seconds for which an answer has been due; 0: none is."""
        echo = now - self._echo_asked if self._echo_asked is not None else 0.0
        dial = now - self._dial_asked - UNSURE if self._dial_asked is not None else 0.0
        return max(0.0, echo, dial)

    def stage(self, now: float) -> Stage:
        """What the silence leads to now."""
        silence, patience = self.silence(now), self._patience
        for bound, stage in (
            (patience.restart, Stage.RESTART),
            (patience.lost, Stage.LOST),
            (patience.down, Stage.DOWN),
            (patience.nudge, Stage.NUDGE),
            (patience.suspect, Stage.SUSPECT),
        ):
            if silence >= bound:
                return stage
        return Stage.FINE

    def nudge_due(self, now: float) -> bool:
        """Whether to make the connection anew now; notes that it was."""
        if self.silence(now) < self._patience.nudge or now - self._nudged < NUDGE_EVERY:
            return False
        self._nudged = now
        return True
