"""Defines views: immutable copies of the state of tunnels, backends and the service, for use in any thread.

Times are seconds since the epoch; durations are in seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.contracts.states import HealthState, ServicePhase, TunnelState
from gateway.facts import FactDefinition, FactValue
from gateway.metric_types import Histogram
from gateway.ops.docker_views import DockerView

ConfigText = dict[str, list[tuple[str, str]]]
"""The configuration without secrets: pairs of key and value for each section, such as `ops` or `backends.orders`."""


@dataclass(frozen=True)
class TunnelView:
    """A view of the state of one tunnel."""

    name: str
    kind: str
    via: tuple[str, ...]
    far_side: str
    state: TunnelState
    reason: str | None
    detail: str
    since: float
    connects: int
    failures: dict[str, int]
    rtt: float | None
    channel_open: Histogram
    details: dict[str, object]
    facts: tuple[FactDefinition, ...] = ()
    """The facts (kind-specific values) that the kind of the tunnel declares. `details` contains their values."""
    via_in_use: str | None = None
    """The outer tunnel in use; None if this tunnel has no outer tunnel, or is not open."""

    @property
    def fact_values(self) -> dict[FactDefinition, object]:
        """The values of `facts`; None for a value that is not known."""
        return {fact: self.details.get(fact.key) for fact in self.facts}


class CheckHistoryEntry(Protocol):
    """An entry in the check history of a target."""

    @property
    def at(self) -> float:
        """When the probe ended."""

    @property
    def duration(self) -> float:
        """Duration of the probe, in seconds."""

    @property
    def state(self) -> HealthState:
        """The state of the target according to this probe alone. `rise` and `fall` do not apply."""

    @property
    def reason(self) -> str | None:
        """The reason for the state; None if the state is `up` or `unknown`."""

    @property
    def detail(self) -> str:
        """More information about the reason, in one line."""

    @property
    def succeeded(self) -> bool:
        """Whether the probe succeeded."""

    @property
    def phases(self) -> Mapping[str, float]:
        """Duration of each phase of the probe, such as `tcp` or `auth`, in seconds."""


@dataclass(frozen=True)
class TargetView:
    """A view of one target: its state over the path that new clients use, and the combined counters of all paths."""

    target: str
    tunnel: str | None
    """The tunnel that new clients use; None if they use no tunnel."""
    state: HealthState
    reason: str | None
    detail: str
    since: float
    flapping: bool
    role: str | None
    facts: Mapping[FactDefinition, FactValue]
    last_check: float | None
    last_success: float | None
    last_duration: float | None
    last_phases: dict[str, float]
    attempts: int
    failures: dict[str, int]
    broken_handshakes: int | None
    """Number of aborted handshakes since the last successful login; None if the server does not count them."""
    duration: Histogram
    phases: dict[str, tuple[int, float]]
    remedy: str = ""
    """The recommended action, in the imperative; empty if there is none."""
    history: Sequence[CheckHistoryEntry] = ()
    """The latest check results, oldest first. An entry with the state `blocked` means that no probe ran, because the
    tunnel was down."""
    failed_checks: Sequence[CheckHistoryEntry] = ()
    """The latest failed probes, oldest first. Some of them can be older than all entries of `history`."""


@dataclass(frozen=True)
class BackendTunnelView:
    """A view of how one backend uses one tunnel: the number of clients, and whether new clients use the tunnel."""

    tunnel: str
    up: bool
    """Whether new clients can reach at least one target through the tunnel. If the checks of a target fail over all
    paths, this value does not depend on these checks, because the target itself might be the cause."""
    reason: str | None
    detail: str
    in_use: bool
    """Whether new clients of at least one target use this tunnel."""
    clients: int
    switches: int
    """Number of times that new clients switched to this tunnel from another path, summed over the targets."""


@dataclass(frozen=True)
class ConsumerView:
    """A view of how one container uses one backend: connections, bytes and latency."""

    id: str
    active: int
    total: int
    rejected: dict[str, int]
    to_backend: int
    from_backend: int
    latency: Histogram
    waiting: int = 0
    """Number of connections that are not connected to a target yet. `active` includes these connections."""


@dataclass(frozen=True)
class CertificateView:
    """The validity period of a certificate that the gateway uses or that a server has presented."""

    kind: str
    name: str
    what: str
    begins: float
    expires: float


@dataclass(frozen=True)
class BackendStateSummary:
    """The few values of a backend that the health endpoints need: the state, and the reason for it."""

    name: str
    state: HealthState
    reason: str | None
    detail: str
    since: float


@dataclass(frozen=True)
class BackendView:
    """A view of the state of one backend, with its targets, tunnels and clients."""

    name: str
    kind: str
    via: tuple[str, ...]
    listen: list[str]
    prefer: str
    state: HealthState
    reason: str | None
    detail: str
    since: float
    targets: list[TargetView]
    connections: int
    connections_total: int
    rejected: dict[str, int]
    """For each reason, the number of clients that were rejected before they were connected to a target."""
    resets: dict[str, int]
    to_backend: int
    from_backend: int
    latency: Histogram
    remedy: str = ""
    """The recommended action, in the imperative; empty if there is none."""
    paths: list[BackendTunnelView] = field(default_factory=list)
    waiting: int = 0
    """Number of clients that are not connected to a target yet. `connections` includes these clients."""
    max_connections: int = 0
    failing: bool = False
    facts: tuple[FactDefinition, ...] = ()
    """The facts (kind-specific values) that the kind of the backend declares. Each target contains the values of
    these facts."""
    consumers: dict[str, ConsumerView] = field(default_factory=dict)


@dataclass(frozen=True)
class ServiceView:
    """A view of the state of the whole service."""

    version: str
    python_version: str
    instance: str
    started_at: float
    startup_done: bool
    draining: bool
    reload_successful: bool
    reload_success_at: float
    reload_error: str
    tunnels: list[TunnelView]
    backends: list[BackendView]
    loop_lag: Histogram
    reload_failed_at: float | None = None
    """When the latest reload failed; None if it succeeded, or if there was no reload."""
    accepting: bool = True
    """Whether the listeners accept clients. False when a shutdown has closed the listeners."""
    warnings: list[str] = field(default_factory=list)
    docker: DockerView | None = None
    credentials: list[CertificateView] = field(default_factory=list)
    """Certificates, earliest expiry first."""
    tasks: int = 0
    """Number of asyncio tasks in this process."""
    audit_dropped: int = 0
    """Number of audit events that the gateway dropped instead of writing them to the audit log."""
    io_flusher: bool = False
    """Whether the process has the flag PR_SET_IO_FLUSHER (prctl(2)). The flag prevents a deadlock: without it, the
    process can wait for the write-back of an NFS mount that depends on a connection through this process."""

    @property
    def status(self) -> ServicePhase:
        """The phase of the service."""
        return phase(started=self.startup_done, draining=self.draining)


def phase(*, started: bool, draining: bool) -> ServicePhase:
    """Return the phase of the service."""
    if draining:
        return ServicePhase.DRAINING
    return ServicePhase.READY if started else ServicePhase.STARTING
