"""Defines the messages between the owner (the main process) and a worker."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from gateway.audit_log.events import AuditEvent
from gateway.config import Config
from gateway.contracts.link import LinkStatus
from gateway.contracts.states import TunnelState
from gateway.contracts.values import Endpoint
from gateway.docker.consumers import Consumer
from gateway.errors import Reason
from gateway.forwarding.consumer_usage import UsageCounters
from gateway.measurement import Histogram
from gateway.ops.status_views import ConsumerView
from gateway.supervision.uplink import Uplink


@dataclass(frozen=True)
class ListeningSockets:
    """Carries descriptors of sockets that listen on `address`, for the next `ApplyConfig` message."""

    address: Endpoint
    count: int
    """The number of descriptors that were sent. Fewer arrive if the receiving process has reached its descriptor
    limit."""


@dataclass(frozen=True)
class ApplyConfig:
    """Requests that the worker applies a configuration, with the listening sockets sent before this message.

    The worker responds `ConfigApplied` or `DescriptorsLost`.
    """

    config: Config
    number: int


@dataclass(frozen=True)
class ConfigApplied:
    """The worker has applied the configuration with this number. Removed listeners no longer accept clients."""

    number: int


@dataclass(frozen=True)
class DescriptorsLost:
    """The worker lost descriptors and did not apply the configuration. The owner sends the configuration again."""


class CheckLogin(NamedTuple):
    """The last successful login of a check to `target` through `tunnel` (None: directly)."""

    target: Endpoint
    tunnel: str | None
    at: float
    """Monotonic time at which the login succeeded. All processes of a host share this clock."""
    limit: int | None
    """How many aborted handshakes the server tolerates; None if this is not known."""


@dataclass(frozen=True)
class TargetAssignment:
    """The targets for new clients of a backend, best first, and the targets whose clients must reconnect."""

    backend: str
    targets: tuple[Endpoint, ...]
    wrong_role: frozenset[Endpoint] = frozenset()
    left: frozenset[Endpoint] = frozenset()
    logins: tuple[CheckLogin, ...] = ()


@dataclass(frozen=True)
class ConsumerSnapshot:
    """All consumers, by address. Replaces the consumers of the previous message."""

    consumers: dict[str, Consumer]


@dataclass(frozen=True)
class UnknownSource:
    """A client has an unknown source address. The owner then reconciles Docker to find the container."""


@dataclass(frozen=True)
class DialRequest:
    """Connect the descriptor sent with this message to the target `to`, through a tunnel (None: directly)."""

    number: int
    tunnel: str | None
    to: Endpoint


class WorkerAction(Enum):
    """The actions that a `WorkerCommand` can request, such as to stop, or to reconnect a tunnel."""

    STOP = "stop"
    STOP_ACCEPTING = "stop_accepting"
    ABORT_ALL = "abort_all"
    ABORT_IDLE = "abort_idle"
    """Argument: see `Forward.abort_idle`."""
    SET_FAIL_FAST = "set_fail_fast"
    """Argument: the backend, and whether to enable it."""
    RECONNECT = "reconnect"
    """Argument: the name of the tunnel. `RENEW` and `RETRY` have the same argument."""
    RENEW = "renew"
    RETRY = "retry"


@dataclass(frozen=True)
class WorkerCommand:
    """A command from the main process to a worker: an action and its argument."""

    action: WorkerAction
    argument: Any = None


@dataclass(frozen=True)
class DialResult:
    """The result of a `DialRequest`: success, or a reason, a line of detail, and whether the link was lost."""

    number: int
    reason: Reason | None = None
    detail: str = ""
    lost: bool = False


@dataclass(frozen=True)
class TrafficFailure:
    """Traffic to a target failed, or, if `stalled` is true, a response from the target takes too long."""

    backend: str
    target: Endpoint
    stalled: bool = False


@dataclass(frozen=True)
class AuditEvents:
    """Audit events of a worker."""

    events: list[AuditEvent]
    lost: int
    """Number of events that the worker dropped because the owner did not read them."""
    open: int
    """Number of clients for which the audit log has no closing event yet."""


@dataclass(frozen=True)
class UplinkReport:
    """The state of one of a worker's uplinks."""

    state: TunnelState
    reason: Reason | None
    detail: str
    described: str
    since: float
    connects: int
    failures: dict[str, int]
    channel_open: Histogram
    link: LinkStatus
    up: bool
    via_in_use: str | None = None


NO_UPLINK = UplinkReport(
    state=TunnelState.IDLE, reason=None, detail="", described="not started", since=0.0, connects=0, failures={},
    channel_open=Histogram(), link=LinkStatus(), up=False,
)  # fmt: skip


def uplink_report(uplink: Uplink) -> UplinkReport:
    """Return the current state of an uplink."""
    return UplinkReport(
        state=uplink.state,
        reason=uplink.reason,
        detail=uplink.detail,
        described=uplink.describe(),
        since=uplink.since,
        connects=uplink.connects,
        failures=dict(uplink.failures),
        channel_open=uplink.channel_open,
        link=uplink.opened.status() if uplink.opened else LinkStatus(),
        up=uplink.link is not None,
        via_in_use=uplink.via_in_use,
    )


def consumer_view(usage: UsageCounters | ConsumerView) -> ConsumerView:
    """Return the current usage of a consumer. For a consumer of a worker, this is the worker's last report."""
    return ConsumerView(
        usage.id, usage.active, usage.total, dict(usage.rejected), usage.to_backend, usage.from_backend,
        usage.latency.copy(), usage.waiting,
    )  # fmt: skip


@dataclass(frozen=True)
class ForwardReport:
    """The counters of a backend's clients in a worker."""

    active: int = 0
    waiting: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    resets: dict[str, int] = field(default_factory=dict)
    to_backend: int = 0
    from_backend: int = 0
    latency: Histogram = field(default_factory=Histogram)
    consumers: dict[str, ConsumerView] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerReport:
    """The states of all uplinks of a worker, and the counters of its forwards."""

    uplinks: dict[str, UplinkReport]
    forwards: dict[str, ForwardReport]
    draining: int = 0
    """Number of clients whose backends no longer belong to the worker."""
