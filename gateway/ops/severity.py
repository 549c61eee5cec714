"""Determines how severe the state of a tunnel or backend is: good, warning or bad. Does no I/O."""

from enum import StrEnum

from gateway.contracts.states import HealthState, TunnelState

BACKEND_STATES = (
    HealthState.DOWN,
    HealthState.BLOCKED,
    HealthState.DEGRADED,
    HealthState.UNKNOWN,
    HealthState.PAUSED,
    HealthState.UP,
)
"""The states of backends, worst first."""
OPEN_STATES = (TunnelState.UP, TunnelState.DRAINING)
"""The states in which a tunnel is open and its server responds. A tunnel in the state `draining` serves only its
existing clients."""


class DisplaySeverity(StrEnum):
    """The severity of a state: good, warning or bad. The HTML pages use the values as CSS classes."""

    BAD = "bad"
    WARNING = "warning"
    GOOD = "good"


def backend_severity(state: HealthState) -> DisplaySeverity:
    """Return the severity of a backend's state."""
    if state is HealthState.UP:
        return DisplaySeverity.GOOD
    return DisplaySeverity.BAD if state in (HealthState.DOWN, HealthState.BLOCKED) else DisplaySeverity.WARNING


def tunnel_severity(state: TunnelState) -> DisplaySeverity:
    """Return the severity of a tunnel's state."""
    if state in OPEN_STATES:
        return DisplaySeverity.GOOD
    return (
        DisplaySeverity.BAD
        if state in (TunnelState.BACKOFF, TunnelState.QUARANTINED, TunnelState.WAITING)
        else DisplaySeverity.WARNING
    )
