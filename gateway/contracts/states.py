"""Closed lists of states, roles and classes."""

from enum import StrEnum
from typing import Literal


class State(StrEnum):
    """State of a backend or of one of its targets."""

    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"
    BLOCKED = "blocked"
    PAUSED = "paused"


DatabaseRole = Literal["primary", "replica"]
"""Role of a database, as its check finds it."""
Preference = Literal["primary", "replica", "any", "order"]
"""Which target new clients get; see the key `prefer`."""


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


class TrafficClass(StrEnum):
    """What the clients of a backend do with its bytes."""

    INTERACTIVE = "interactive"
    """Queries, whose latency counts."""
    BULK = "bulk"
    """Transfers, which would delay queries on the same connection or CPU core."""


class CloseReason(StrEnum):
    """Why a joined connection ended."""

    FINISHED = "finished"
    CLIENT_RESET = "client_reset"
    BACKEND_RESET = "backend_reset"
    LINK_LOST = "link_lost"
    MOVED = "moved"
    ABORTED = "aborted"
