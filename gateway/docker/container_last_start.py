"""Defines `ContainerLastStart`, the result of a container's last start, and sorts starts by time."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass

_CONTINUES = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
"""Signals that usually do not stop a program. For example, many programs reload their configuration at SIGHUP."""

_LONG_STOP = 600.0
"""The assumed maximum time, in seconds, to stop a container whose stop timeout is infinite."""


@dataclass(frozen=True)
class ContainerLastStart:
    """The result of a container's most recent start, as an inspection shows it.

    Args:
        error: Why the start failed (`State.Error`); empty if the start succeeded, or if the container was stopped
            after the failure.
        restarts: Whether the container has a restart policy other than `no`.
        at: The time of the most recent successful start, in seconds since the epoch; 0 if no start succeeded.
        running: Whether the container ran, and was not paused, at the time of the inspection.
        stop_timeout: The time in seconds that the engine waits for the container to stop before it kills the
            container; negative if the engine waits forever.
        stop_signal: The number of the signal that stops the container (`StopSignal`).
    """

    error: str = ""
    restarts: bool = False
    at: float = 0.0
    running: bool = False
    stop_timeout: float = 10.0
    stop_signal: int = signal.SIGTERM

    @property
    def max_stop_time(self) -> float:
        """The maximum time to stop the container, in seconds; `_LONG_STOP` if the engine waits forever."""
        return self.stop_timeout if self.stop_timeout >= 0 else _LONG_STOP

    def may_be_stopped_by(self, signals: Mapping[int, float], engine_time: float) -> bool:
        """Return whether the container has received, since this start, a signal that may stop it.

        Args:
            signals: When the container last received each signal, by signal number. The times are from the engine's
                clock, in seconds since the epoch.
            engine_time: The engine's time at the snapshot, in seconds since the epoch; 0 if it is not known.
        """
        return any(
            (at > self.at or start_order(at, engine_time) > start_order(self.at, engine_time))
            and (number == self.stop_signal or number not in _CONTINUES)
            for number, at in signals.items()
        )


def start_order(at: float, engine_time: float) -> tuple[bool, float]:
    """Return a sort key that orders starts by time, even if the engine's clock was set back between them.

    A start that seems to be in the future sorts first, because it happened before the clock was set back.

    Args:
        at: The time in seconds since the epoch.
        engine_time: The engine's time at the snapshot, in seconds since the epoch; 0 if it is not known.
    """
    return not engine_time or at <= engine_time, at
