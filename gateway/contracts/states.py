"""Defines the enumerations of states, roles, traffic classes and close reasons."""

from enum import StrEnum
from typing import Literal


class HealthState(StrEnum):
    """State of a backend or of one of its targets."""

    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"
    BLOCKED = "blocked"
    PAUSED = "paused"

    @property
    def is_usable(self) -> bool:
        """Whether clients can use the target or backend."""
        return self in (HealthState.UP, HealthState.DEGRADED)


DatabaseRole = Literal["primary", "replica"]
"""Role of a database, as its health check determines it."""
Preference = Literal["primary", "replica", "any", "order"]
"""How the gateway chooses the target for new clients; see the key `prefer`."""
PathPreference = Literal["order", "latency"]
"""How the gateway chooses the path for new clients; see the key `prefer_way`."""


class TunnelState(StrEnum):
    """State of a tunnel."""

    IDLE = "idle"
    WAITING = "waiting"
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    UP = "up"
    SUSPECT = "suspect"
    DRAINING = "draining"
    BACKOFF = "backoff"
    QUARANTINED = "quarantined"
    STOPPED = "stopped"

    @property
    def availability(self) -> "TunnelState":
        """The state if it is `up`, `draining` or `stopped`; otherwise, `backoff`.

        A failed attempt to open the tunnel changes the state several times, but does not change the availability.
        """
        return self if self in (TunnelState.UP, TunnelState.DRAINING, TunnelState.STOPPED) else TunnelState.BACKOFF


class ServicePhase(StrEnum):
    """Phase of the service."""

    STARTING = "starting"
    """The first round of checks is not finished."""
    READY = "ready"
    DRAINING = "draining"


class ConfigTrigger(StrEnum):
    """Why the gateway loads a configuration."""

    START = "start"
    ADMIN = "admin"
    """A request to the admin socket."""
    SIGNAL = "signal"
    """SIGHUP."""
    FILE = "file"
    """A change of the configuration file."""


class TrafficClass(StrEnum):
    """Whether the clients of a backend send queries or transfer bulk data."""

    INTERACTIVE = "interactive"
    """Queries, for which low latency matters."""
    BULK = "bulk"
    """Bulk transfers, for which throughput matters. They delay queries on the same connection or CPU core."""


class CloseReason(StrEnum):
    """Why the connection between a client and a target ended."""

    FINISHED = "finished"
    CLIENT_RESET = "client_reset"
    BACKEND_RESET = "backend_reset"
    LINK_LOST = "link_lost"
    MOVED = "moved"
    ABORTED = "aborted"
