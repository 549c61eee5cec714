"""What the owner and a worker say to each other."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from gateway.audit_log.events import Event
from gateway.config import Config
from gateway.contracts import Endpoint, LinkStatus, TunnelState
from gateway.docker.consumers import Consumer
from gateway.errors import Reason
from gateway.forwarding.listener import ListenAddress
from gateway.forwarding.usage import Usage
from gateway.measure import Histogram
from gateway.ops.view import ConsumerView
from gateway.supervision.uplink import Uplink


@dataclass(frozen=True)
class Sockets:
    """The descriptors that come with this listen on `address`; for the next `Apply`."""

    address: ListenAddress
    count: int
    """How many descriptors come with it; fewer do where one of the two processes has none left."""


@dataclass(frozen=True)
class Apply:
    """Run this from now on, on the sockets that were sent before it; answered with `Applied`."""

    config: Config
    number: int


@dataclass(frozen=True)
class Applied:
    """The configuration of this number is what runs: nothing that it took away accepts any more."""

    number: int


@dataclass(frozen=True)
class Incomplete:
    """Descriptors were lost on the way to us: the configuration was not applied, and is to be sent again."""


Login = tuple[Endpoint, float, int | None]
"""A target, when a check last logged in there, and how many broken handshakes its server lets pass."""


@dataclass(frozen=True)
class Order:
    """The targets that new clients of a backend get, best first, and those that clients should leave."""

    backend: str
    targets: tuple[Endpoint, ...]
    unwanted: frozenset[Endpoint] = frozenset()
    logins: tuple[Login, ...] = ()


@dataclass(frozen=True)
class Known:
    """The consumers by address, from now on."""

    consumers: dict[str, Consumer]


@dataclass(frozen=True)
class Unfamiliar:
    """A client came from an address that is not known: the owner looks now."""


@dataclass(frozen=True)
class Dial:
    """Join the descriptor that comes with this to `to`, through a tunnel (None: straight)."""

    number: int
    tunnel: str | None
    to: Endpoint


class Action(Enum):
    """What a worker does at a command, and the argument that it needs."""

    STOP = "stop"
    STOP_ACCEPTING = "stop_accepting"
    ABORT_ALL = "abort_all"
    ABORT_IDLE = "abort_idle"
    """Argument: see `Forward.abort_idle`."""
    SET_FAIL_FAST = "set_fail_fast"
    """Argument: the backend, and whether to enable it."""
    RECONNECT = "reconnect"
    """Argument: the tunnel, as for `RENEW` and `RETRY`."""
    RENEW = "renew"
    RETRY = "retry"


@dataclass(frozen=True)
class Command:
    """A command to a worker."""

    action: Action
    argument: Any = None


@dataclass(frozen=True)
class Dialled:
    """What became of a `Dial`: nothing wrong, or a reason, a line, and whether the link itself was lost."""

    number: int
    reason: Reason | None = None
    detail: str = ""
    lost: bool = False


@dataclass(frozen=True)
class Failed:
    """Traffic failed at a target, or, `silent`, waits there for too long."""

    backend: str
    target: Endpoint
    silent: bool = False


@dataclass(frozen=True)
class Recorded:
    """Events for the audit log."""

    events: list[Event]
    lost: int
    """Events that the worker dropped, because the owner did not read."""
    open: int
    """Clients whose end is still to be recorded."""


@dataclass(frozen=True)
class UplinkReport:
    """A tunnel, as the worker sees it."""

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


NO_UPLINK = UplinkReport(
    state=TunnelState.IDLE, reason=None, detail="", described="not started", since=0.0, connects=0, failures={},
    channel_open=Histogram(), link=LinkStatus(), up=False,
)  # fmt: skip


def uplink_report(uplink: Uplink) -> UplinkReport:
    """A tunnel as it is now."""
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
    )


def consumer_view(usage: Usage | ConsumerView) -> ConsumerView:
    """A consumer's use as it is now; of a worker's consumer, as it was reported last."""
    return ConsumerView(
        usage.id, usage.active, usage.total, dict(usage.rejected), usage.to_backend, usage.from_backend,
        usage.latency.copy(),
    )  # fmt: skip


@dataclass(frozen=True)
class ForwardReport:
    """A backend's clients, as the worker counts them."""

    active: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    resets: dict[str, int] = field(default_factory=dict)
    to_backend: int = 0
    from_backend: int = 0
    latency: Histogram = field(default_factory=Histogram)
    consumers: dict[str, ConsumerView] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything that a worker counts."""

    uplinks: dict[str, UplinkReport]
    forwards: dict[str, ForwardReport]
    draining: int = 0
    """Clients of backends that are not the worker's any more."""
