"""What there is to tell about the service at one moment: plain data, taken on the loop, rendered anywhere."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from gateway.contracts import State, TunnelState
from gateway.measure import Histogram

ATTACHMENT_STATES = ("attached", "pending", "drifted", "blocked")


@dataclass(frozen=True)
class TunnelView:
    """One tunnel."""

    name: str
    kind: str
    via: str | None
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


@dataclass(frozen=True)
class TargetView:
    """One target of a backend, as its check sees it."""

    target: str
    state: State
    reason: str | None
    detail: str
    since: float
    flapping: bool
    role: str | None
    read_only: bool | None
    lag: float | None
    version: str | None
    identity: str | None
    space: dict[str, int]
    lease: int | None
    last_check: float | None
    last_success: float | None
    last_duration: float | None
    last_phases: dict[str, float]
    attempts: int
    failures: dict[str, int]
    broken_handshakes: int | None
    """Since the last login, where the server counts them against everybody behind the tunnel."""
    duration: Histogram
    phases: dict[str, tuple[int, float]]


@dataclass(frozen=True)
class ConsumerView:
    """What one container uses of one backend."""

    id: str
    active: int
    total: int
    rejected: dict[str, int]
    to_backend: int
    from_backend: int
    latency: Histogram


@dataclass(frozen=True)
class AttachmentView:
    """One container on one network, as it is wanted."""

    network: str
    container: str
    state: str
    reason: str | None
    message: str


@dataclass(frozen=True)
class VolumeView:
    """One volume that is kept."""

    name: str
    state: str
    message: str
    options: dict[str, str] = field(hash=False)


@dataclass(frozen=True)
class ActionView:
    """One change that is still to be made in Docker."""

    action: str
    network: str
    container: str
    aliases: list[str]
    why: str


@dataclass(frozen=True)
class KnownConsumer:
    """A container that may use backends."""

    id: str
    labels: dict[str, str] = field(hash=False)


@dataclass(frozen=True)
class DockerView:
    """The engine, and what is kept in it."""

    trouble: str | None
    looked_at: float | None
    leader: bool
    container: str | None
    attachments: list[AttachmentView]
    volumes: list[VolumeView]
    actions: list[ActionView]
    warnings: list[str]
    postponed: int
    writes: dict[str, int]
    errors: dict[tuple[str, str], int]
    consumers: dict[str, KnownConsumer]


@dataclass(frozen=True)
class BackendView:
    """One backend."""

    name: str
    kind: str
    via: str | None
    listen: list[str]
    prefer: str
    state: State
    reason: str | None
    detail: str
    since: float
    targets: list[TargetView]
    connections: int
    connections_total: int
    rejected: dict[str, int]
    resets: dict[str, int]
    to_backend: int
    from_backend: int
    latency: Histogram
    failing: bool = False
    consumers: dict[str, ConsumerView] = field(default_factory=dict)


@dataclass(frozen=True)
class ServiceView:
    """The whole service."""

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
    warnings: list[str] = field(default_factory=list)
    workers: dict[int, int | None] = field(default_factory=dict)
    """The process of each worker; None while it is being started."""
    docker: DockerView | None = None
    tasks: int = 0
    """Of asyncio, in this process."""
    io_flusher: bool = False
    """Whether the kernel knows that its own writing back may wait for us."""

    @property
    def status(self) -> str:
        """`starting`, `ready` or `draining`."""
        if self.draining:
            return "draining"
        return "ready" if self.startup_done else "starting"


class Service(Protocol):
    """What the HTTP and admin servers ask and tell."""

    def view(self) -> ServiceView:
        """The state of everything, from memory."""

    async def view_in_turns(self) -> ServiceView:
        """As `view`, letting others run in between: for what can wait a moment, with a thousand checks."""

    def history(self, backend: str) -> dict[str, list[dict[str, Any]]] | None:
        """The last checks by target; None for an unknown backend."""

    async def reload(self) -> str:
        """Read the configuration again; says what changed.

        Raises:
            ConfigError, BindError: Nothing was changed.
        """

    def drain(self) -> None:
        """Say not ready from now on."""

    def undrain(self) -> None:
        """Say ready again.

        Raises:
            GatewayError: The service is stopping.
        """

    def shutdown(self) -> None:
        """Drain and stop."""

    def pause(self, backend: str, *, paused: bool) -> bool:
        """Stop or resume a backend's checks; False for an unknown backend."""

    def fail(self, backend: str, *, failing: bool) -> bool:
        """Reset a backend's clients rather than hold them, or hold them again; False for an unknown backend."""

    def reconnect(self, tunnel: str) -> bool:
        """Open a tunnel anew; False for an unknown tunnel."""


def iso(seconds: float | None) -> str | None:
    """A time in RFC 3339."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def tunnel_json(view: TunnelView) -> dict[str, Any]:
    """A tunnel for people and scripts."""
    return {
        "kind": view.kind,
        "via": view.via,
        "far_side": view.far_side,
        "state": view.state,
        "reason": view.reason,
        "detail": view.detail,
        "since": iso(view.since),
        "connects": view.connects,
        "failures": view.failures,
        "rtt_seconds": view.rtt,
        **view.details,
    }


def target_json(view: TargetView) -> dict[str, Any]:
    """A target for people and scripts."""
    return {
        "target": view.target,
        "state": view.state,
        "reason": view.reason,
        "detail": view.detail,
        "since": iso(view.since),
        "flapping": view.flapping,
        "role": view.role,
        "read_only": view.read_only,
        "lag_seconds": view.lag,
        "version": view.version,
        "identity": view.identity,
        "space_bytes": view.space,
        "lease_seconds": view.lease,
        "last_check": iso(view.last_check),
        "last_success": iso(view.last_success),
        "last_duration_seconds": view.last_duration,
        "last_phases_seconds": view.last_phases,
        "attempts": view.attempts,
        "failures": view.failures,
        "broken_handshakes": view.broken_handshakes,
    }


def backend_json(view: BackendView) -> dict[str, Any]:
    """A backend for people and scripts."""
    return {
        "kind": view.kind,
        "via": view.via,
        "listen": view.listen,
        "prefer": view.prefer,
        "state": view.state,
        "reason": view.reason,
        "detail": view.detail,
        "since": iso(view.since),
        "targets": [target_json(target) for target in view.targets],
        "connections": {
            "active": view.connections,
            "total": view.connections_total,
            "rejected": view.rejected,
            "reset": view.resets,
            "bytes_to_backend": view.to_backend,
            "bytes_from_backend": view.from_backend,
        },
        "holds_clients": not view.failing,
    }


def plan_json(view: DockerView | None) -> dict[str, Any]:
    """What is to be done in Docker, and how what is wanted stands, as `/api/v1/plan` gives it."""
    if view is None:
        return {"configured": False, "actions": [], "attachments": [], "volumes": [], "warnings": [], "postponed": 0}
    return {
        "configured": True,
        "trouble": view.trouble,
        "looked_at": iso(view.looked_at),
        "actions": [asdict(action) for action in view.actions],
        "attachments": [asdict(attachment) for attachment in view.attachments],
        "volumes": [asdict(volume) for volume in view.volumes],
        "warnings": view.warnings,
        "postponed": view.postponed,
    }


def consumers_json(view: ServiceView) -> dict[str, Any]:
    """Who uses what, as `/api/v1/consumers` gives it."""
    known = view.docker.consumers if view.docker else {}
    found: dict[str, Any] = {name: {"id": each.id, "backends": {}} for name, each in known.items()}
    for backend in view.backends:
        for name, usage in backend.consumers.items():
            found.setdefault(name, {"id": usage.id or None, "backends": {}})["backends"][backend.name] = {
                "active": usage.active,
                "total": usage.total,
                "rejected": usage.rejected,
                "bytes_to_backend": usage.to_backend,
                "bytes_from_backend": usage.from_backend,
                "responses": usage.latency.count,
                "mean_latency_seconds": usage.latency.sum / usage.latency.count if usage.latency.count else None,
            }
    return {"consumers": found}


def docker_json(view: DockerView | None) -> dict[str, Any] | None:
    """The engine, in the status."""
    if view is None:
        return None
    return {
        "reachable": view.trouble is None and view.looked_at is not None,
        "trouble": view.trouble,
        "looked_at": iso(view.looked_at),
        "leader": view.leader,
        "container": view.container,
        "attachments": [asdict(attachment) for attachment in view.attachments],
        "volumes": [asdict(volume) for volume in view.volumes],
        "pending_actions": len(view.actions),
        "warnings": view.warnings,
        "writes": view.writes,
    }


def service_json(view: ServiceView) -> dict[str, Any]:
    """Everything, as `/api/v1/status` gives it."""
    return {
        "status": view.status,
        "instance": view.instance,
        "version": view.version,
        "started_at": iso(view.started_at),
        "draining": view.draining,
        "reload": {
            "successful": view.reload_successful,
            "last_success": iso(view.reload_success_at),
            "error": view.reload_error,
        },
        "warnings": view.warnings,
        "io_flusher": view.io_flusher,
        "workers": {str(number): pid for number, pid in view.workers.items()},
        "tunnels": {tunnel.name: tunnel_json(tunnel) for tunnel in view.tunnels},
        "backends": {backend.name: backend_json(backend) for backend in view.backends},
        "docker": docker_json(view.docker),
    }
