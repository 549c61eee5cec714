"""Defines the schedule of a check, from the section `check` of the configuration."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckSchedule:
    """Defines how often a check probes its target, and after how many consecutive results the target's state changes.

    Args:
        interval: Seconds between two probes.
        fast_interval: Seconds between two probes while the state might change soon.
        down_interval: Seconds between two probes while the target is down.
        timeout: Time limit of one probe, in seconds.
        rise: Number of consecutive successes after which the state changes from down to up.
        fall: Number of consecutive failures after which the state changes from up to down.
    """

    interval: float
    fast_interval: float
    down_interval: float
    timeout: float
    rise: int
    fall: int
