"""Creates views of tunnels, backends and the service, with default values for tests."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.contracts.states import HealthState, TunnelState
from gateway.metric_types import Histogram
from gateway.ops.docker_views import DockerView
from gateway.ops.status_views import (
    BackendTunnelView,
    BackendView,
    ConsumerView,
    ServiceView,
    TargetView,
    TunnelView,
)

NOW = 1_800_000_000.0


@dataclass(frozen=True)
class Checked:
    """The result of a past probe. See `gateway.ops.status_views.CheckHistoryEntry`."""

    state: HealthState = HealthState.UP
    at: float = NOW
    duration: float = 0.01
    reason: str | None = None
    detail: str = ""
    phases: Mapping[str, float] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        return self.state in (HealthState.UP, HealthState.DEGRADED)


def target(address: str = "db.internal:3306", state: HealthState = HealthState.UP, **changes: Any) -> TargetView:
    view = TargetView(
        target=address, tunnel=None, state=state, reason=None, detail="", since=NOW, flapping=False, role=None,
        facts={}, last_check=NOW, last_success=NOW, last_duration=0.01, last_phases={"tcp": 0.002, "auth": 0.008},
        attempts=100, failures={}, broken_handshakes=None, duration=Histogram(), phases={"tcp": (2, 0.004)},
        history=[Checked(state)] * 100,
    )  # fmt: skip
    return replace(view, **changes)


def backend(
    name: str = "orders", state: HealthState = HealthState.UP, *, via: Sequence[str] = (), **changes: Any
) -> BackendView:
    """Return the view of a backend whose targets can be reached through the tunnels `via`."""
    view = BackendView(
        name=name, kind="mysql", via=tuple(via), paths=[tunnel_path(each) for each in via],
        listen=["127.0.0.1:3306"], prefer="primary", state=state, reason=None,
        detail="", since=NOW, targets=[target(state=state)], connections=0, connections_total=0, rejected={},
        resets={}, to_backend=0, from_backend=0, latency=Histogram(),
    )  # fmt: skip
    return replace(view, **changes)


def tunnel(name: str = "bastion", state: TunnelState = TunnelState.UP, **changes: Any) -> TunnelView:
    view = TunnelView(
        name=name, kind="ssh", via=(), far_side="user@host:22", state=state, reason=None, detail="", since=NOW,
        connects=1, failures={}, rtt=0.01, channel_open=Histogram(), details={},
    )  # fmt: skip
    return replace(view, **changes)


def tunnel_path(tunnel: str, *, up: bool = True, in_use: bool = True) -> BackendTunnelView:
    return BackendTunnelView(tunnel, up, None, "", in_use, clients=0, switches=0)


def consumer(active: int, waiting: int = 0) -> ConsumerView:
    return ConsumerView("0" * 64, active, active, {}, 0, 0, Histogram(), waiting)


def docker(**changes: Any) -> DockerView:
    view = DockerView(
        problem=None, observed_at=NOW, leader=True, container=None, attachments=[], volumes=[], actions=[],
        warnings=[], postponed=0, writes={}, errors={}, consumers={},
    )  # fmt: skip
    return replace(view, **changes)


def service(tunnels: Sequence[TunnelView] = (), backends: Sequence[BackendView] = (), **changes: Any) -> ServiceView:
    view = ServiceView(
        version="1.2.3", python_version="3.13", instance="site-a", started_at=time.time(), startup_done=True,
        draining=False, reload_successful=True, reload_success_at=NOW, reload_error="", tunnels=list(tunnels),
        backends=list(backends), loop_lag=Histogram(),
    )  # fmt: skip
    return replace(view, **changes)
