"""Defines snapshots of the service's state. They are not changed after creation, so any thread can use them.

Times are seconds since the epoch; durations are in seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.contracts.states import HealthState, TunnelState
from gateway.facts import FactDefinition, FactValue
from gateway.measurement import Histogram

ConfigText = dict[str, list[tuple[str, str]]]
"""The configuration without secrets: pairs of key and value for each section, such as `ops` or `backends.orders`."""
ATTACHMENT_STATES = ("attached", "pending", "drifted", "blocked")
DEAD_CAUSES = ("volume", "network", "namespace")


@dataclass(frozen=True)
class TunnelView:
    """The state of one tunnel."""

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
    """The outer tunnel inside which the tunnel runs; None if it runs inside no other tunnel, or is not open."""


class PastCheck(Protocol):
    """The result of an earlier check of a target."""

    @property
    def at(self) -> float:
        """When the check ended."""

    @property
    def duration(self) -> float:
        """Duration of the check."""

    @property
    def state(self) -> HealthState:
        """The state of the target according to this check alone. `rise` and `fall` have no effect on it."""

    @property
    def reason(self) -> str | None:
        """The reason for the state; None if the state is `up`."""

    @property
    def detail(self) -> str:
        """More information about the reason, in one line."""

    @property
    def succeeded(self) -> bool:
        """Whether the check succeeded."""


@dataclass(frozen=True)
class TargetView:
    """The state of one target of a backend, according to the checks through the tunnel that new clients use."""

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
    history: Sequence[PastCheck] = ()
    """The latest checks, oldest first. An entry with the state `blocked` means that no check ran, because the tunnel
    was down."""
    failed_checks: Sequence[PastCheck] = ()
    """The latest failed checks, oldest first. Some of them can be older than all entries of `history`."""


@dataclass(frozen=True)
class BackendTunnelView:
    """A tunnel through which clients of a backend can reach its targets, and the number of clients that use it."""

    tunnel: str
    up: bool
    """Whether new clients can use the tunnel. If a target fails through all tunnels, this is not a failure of the
    tunnel."""
    reason: str | None
    detail: str
    in_use: bool
    """Whether new clients of at least one target use this tunnel."""
    clients: int
    switches: int
    """How often new clients have switched to this tunnel from another one, summed over all targets."""


@dataclass(frozen=True)
class ConsumerView:
    """The use of one backend by one container (consumer): connections, bytes and latency."""

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
class AttachmentView:
    """A desired attachment of a container to a Docker network, and its actual state."""

    network: str
    container: str
    state: str
    reason: str | None
    message: str


@dataclass(frozen=True)
class VolumeView:
    """A Docker volume that the configuration defines, and its state."""

    name: str
    state: str
    message: str
    options: dict[str, str] = field(hash=False)


@dataclass(frozen=True)
class PlannedChangeView:
    """A change that the gateway plans to make in Docker."""

    action: str
    network: str
    container: str
    aliases: list[str]
    why: str


@dataclass(frozen=True)
class NameConflictView:
    """A host name that is ambiguous in a container, because it has different addresses on two Docker networks."""

    container: str
    network: str
    name: str
    ours: str
    other: str


@dataclass(frozen=True)
class UnavailableContainerView:
    """A container that is unavailable because a volume, a network or a network namespace was missing."""

    container: str
    cause: str
    detail: str
    state: str
    message: str
    command: str
    is_excluded: bool


@dataclass(frozen=True)
class ConsumerContainer:
    """A container that is allowed to use backends, with its ID and labels."""

    id: str
    labels: dict[str, str] = field(hash=False)


@dataclass(frozen=True)
class SwarmPeerView:
    """The gateway agent on another node of a Docker swarm, with its last report for one network."""

    network: str
    address: str
    instance: str | None
    containers: int
    trouble: str | None


@dataclass(frozen=True)
class DockerView:
    """The state of the Docker engine: attachments, volumes, unavailable containers, and planned changes."""

    trouble: str | None
    looked_at: float | None
    leader: bool
    container: str | None
    attachments: list[AttachmentView]
    volumes: list[VolumeView]
    actions: list[PlannedChangeView]
    warnings: list[str]
    postponed: int
    writes: dict[str, int]
    errors: dict[tuple[str, str], int]
    consumers: dict[str, ConsumerContainer]
    shadows: list[NameConflictView] = field(default_factory=list)
    peers: list[SwarmPeerView] = field(default_factory=list)
    dead: list[UnavailableContainerView] = field(default_factory=list)
    revived: dict[str, int] = field(default_factory=dict)
    """Number of unavailable containers that the gateway has started again, by the cause of their failure."""


@dataclass(frozen=True)
class CertificateView:
    """A certificate that the gateway uses, or that a server has presented, with its expiry time."""

    kind: str
    name: str
    what: str
    begins: float
    expires: float


@dataclass(frozen=True)
class BackendStatus:
    """The state of one backend for the health endpoints, without its targets and clients."""

    name: str
    state: HealthState
    reason: str | None
    detail: str
    since: float


@dataclass(frozen=True)
class BackendView:
    """The state of one backend, with its targets, tunnels, clients and consumers."""

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
    """Number of clients rejected before they were connected to a target, by reason."""
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
    """The facts (kind-specific values) that the kind of the backend declares. The targets contain their values."""
    consumers: dict[str, ConsumerView] = field(default_factory=dict)


@dataclass(frozen=True)
class ServiceView:
    """The state of the whole service."""

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
    """When the last reload failed, in epoch seconds; None if it was successful."""
    accepting: bool = True
    """Whether the listeners accept clients. False when a shutdown has closed the listeners."""
    warnings: list[str] = field(default_factory=list)
    docker: DockerView | None = None
    credentials: list[CertificateView] = field(default_factory=list)
    """Certificates in the order of their expiry."""
    tasks: int = 0
    """Number of asyncio tasks in this process."""
    audit_dropped: int = 0
    """Number of events that were dropped from the audit log."""
    io_flusher: bool = False
    """Whether the process is marked as an I/O flusher (prctl(2), PR_SET_IO_FLUSHER). If so, its memory allocations do
    not wait for write-back to NFS mounts, which need this process for their connections."""

    @property
    def status(self) -> str:
        """The phase: `starting`, `ready` or `draining`."""
        return phase(started=self.startup_done, draining=self.draining)


def phase(*, started: bool, draining: bool) -> str:
    """Return the phase of the service: `starting`, `ready` or `draining`."""
    if draining:
        return "draining"
    return "ready" if started else "starting"
