"""Computes the diagnosis: which tunnels and backends have failed, why, what the failures affect, and what to do.

The status page, `/api/v1/status`, `/api/v1/summary` and the commands show this diagnosis. Does no I/O. Times are in
seconds since the epoch.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from gateway.contracts.states import HealthState, ServicePhase, TunnelState
from gateway.errors import FailureReason
from gateway.ops.diagnosed_failure import DiagnosedFailure
from gateway.ops.plural import plural
from gateway.ops.severity import BACKEND_STATES, OPEN_STATES, DisplaySeverity, backend_severity
from gateway.ops.state_descriptions import cause, remedy, state_name, without_remedy
from gateway.ops.status_views import BackendView, ServiceView, TunnelView
from gateway.ops.tunnel_root_causes import TunnelFailureEffect, effect_of_tunnels, root_cause_tunnels

MAX_CAUSES = 5
"""Maximum number of failures that the status page and the commands show in detail. For further failures, they show
only the number."""
_ATTEMPTING = (TunnelState.IDLE, TunnelState.RESOLVING, TunnelState.CONNECTING, TunnelState.AUTHENTICATING)
"""The states of a tunnel before and during an attempt to open it. In these states, `TunnelView.reason` is set only if
an earlier attempt failed, if the open tunnel was lost, or if no outer tunnel was open."""


@dataclass(frozen=True)
class Diagnosis:
    """The overall severity, and the tunnels and backends that have failed.

    Args:
        level: The overall severity.
        headline: One sentence with the number of backends in each state.
        causes: The failed tunnels and backends, worst first.
    """

    level: DisplaySeverity
    headline: str
    causes: list[DiagnosedFailure]

    @property
    def title(self) -> str:
        """The title of the status page: the worst failure, and the number of backends in each state."""
        first = next(iter(self.causes), None)
        return f"{first.name} {state_name(first.state)}; {self.headline}" if first else self.headline


def diagnose(view: ServiceView) -> Diagnosis:
    """Return the diagnosis of the service."""
    tunnels = {tunnel.name: tunnel for tunnel in view.tunnels}
    affected: dict[str, dict[TunnelFailureEffect, list[BackendView]]] = {}
    explained = set()
    for backend in view.backends:
        if backend.state is HealthState.UP and len(backend.paths) <= 1:
            continue
        effect, roots = effect_of_tunnels(tunnels, backend)
        for root in roots:
            affected.setdefault(root, {each: [] for each in TunnelFailureEffect})[effect].append(backend)
        if roots and effect is not TunnelFailureEffect.REROUTED:
            explained.add(backend.name)
    causes = [*_tunnel_causes(view, tunnels, affected), *_backend_causes(view, explained)]
    causes.sort(key=lambda each: (each.level is not DisplaySeverity.BAD, -len(each.blocked), each.since))
    if any(each.level is DisplaySeverity.BAD for each in causes):
        level = DisplaySeverity.BAD
    else:
        level = (
            DisplaySeverity.WARNING
            if causes or view.status is not ServicePhase.READY or not view.reload_successful
            else DisplaySeverity.GOOD
        )
    return Diagnosis(level, _headline(view), causes)


def _headline(view: ServiceView) -> str:
    total = len(view.backends)
    states = Counter(each.state for each in view.backends)
    counts = {state: states[state] for state in BACKEND_STATES}
    if not total:
        found = "no backend is configured"
    elif counts[HealthState.UP] == total:
        found = f"{'the backend is' if total == 1 else f'all {total} backends are'} up"
    else:
        found = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        found = f"{plural(total, 'backend')}: {found}"
    phases = {
        ServicePhase.STARTING: "Starting, the first checks are running: ", ServicePhase.READY: "",
        ServicePhase.DRAINING: "Draining, not ready: ",
    }  # fmt: skip
    text = phases[view.status] + found
    return text[0].upper() + text[1:]


def _tunnel_causes(
    view: ServiceView,
    tunnels: Mapping[str, TunnelView],
    affected: Mapping[str, dict[TunnelFailureEffect, list[BackendView]]],
) -> Iterator[DiagnosedFailure]:
    for tunnel in view.tunnels:
        if root_cause_tunnels(tunnels, tunnel.name) != [tunnel]:
            continue
        backends = affected.get(tunnel.name, {each: [] for each in TunnelFailureEffect})
        blocked = backends[TunnelFailureEffect.BLOCKED]
        first_attempt = tunnel.state in _ATTEMPTING and tunnel.reason is None
        if first_attempt and not blocked:
            continue
        waiting, waiters = _waiting(view, blocked)
        yield DiagnosedFailure(
            level=DisplaySeverity.BAD if blocked else DisplaySeverity.WARNING,
            part="tunnel",
            name=tunnel.name,
            state="down" if _retries(tunnel) else tunnel.state,
            since=tunnel.since,
            reason=tunnel.reason,
            cause=cause(tunnel.reason, tunnel.state),
            detail=tunnel.detail,
            remedy=remedy(tunnel),
            waiting=waiting,
            waiters=waiters,
            blocked=tuple(each.name for each in blocked),
            degraded=tuple(each.name for each in backends[TunnelFailureEffect.DEGRADED]),
            rerouted=tuple(each.name for each in backends[TunnelFailureEffect.REROUTED]),
            rerouted_tunnels=tuple(_rerouted_tunnels(view, tunnels, tunnel)),
        )


def _rerouted_tunnels(view: ServiceView, tunnels: Mapping[str, TunnelView], failed: TunnelView) -> Iterator[str]:
    """Yield the open tunnels that can run inside the failed tunnel, but currently run inside another one."""
    for each in view.tunnels:
        if each.state in OPEN_STATES and any(failed in root_cause_tunnels(tunnels, via) for via in each.via):
            yield each.name


def _retries(tunnel: TunnelView) -> bool:
    if tunnel.state in _ATTEMPTING:
        return tunnel.reason is not None
    return tunnel.state in (TunnelState.BACKOFF, TunnelState.WAITING)


def _backend_causes(view: ServiceView, explained: Collection[str]) -> Iterator[DiagnosedFailure]:
    """Yield a failure for each backend that is not up, and for each backend that is at its client limit.

    Also yield a failure for each backend for which `gateway fail` is in effect.

    Args:
        view: The state of the service.
        explained: The names of the backends that are not up because of a failed tunnel. The failure of the tunnel
            already explains their state, so this function does not report the state again.
    """
    for backend in view.backends:
        unchecked = backend.state is HealthState.UNKNOWN and not view.startup_done
        if not (backend.state is HealthState.UP or unchecked or backend.name in explained):
            why, detail = cause(backend.reason, backend.state), without_remedy(backend.detail, backend.remedy)
            found = _backend_cause(view, backend, backend_severity(backend.state), why, detail, remedy(backend))
            # The check logs in with its own account. If the server refuses this login, clients can still log in, so
            # the failure affects only the check.
            refused = backend.state is HealthState.DEGRADED and backend.reason == FailureReason.AUTH
            yield replace(found, only_check=refused)
        if backend.failing:
            why, to_do = (
                "clients are reset while the backend cannot be reached",
                f"run `gateway fail {backend.name} --undo`",
            )
            yield _backend_cause(view, backend, DisplaySeverity.WARNING, why, "", to_do)
        if backend.max_connections and backend.connections >= backend.max_connections:
            why = f"all {backend.max_connections} connections are in use"
            to_do = f"raise max_connections of backend {backend.name}, or close idle clients"
            yield _backend_cause(view, backend, DisplaySeverity.WARNING, why, "", to_do)


def _backend_cause(
    view: ServiceView, backend: BackendView, level: DisplaySeverity, why: str, detail: str, to_do: str
) -> DiagnosedFailure:
    waiting, waiters = _waiting(view, [backend])
    return DiagnosedFailure(
        level=level,
        part="backend",
        name=backend.name,
        state=backend.state,
        since=backend.since,
        reason=backend.reason,
        cause=why,
        detail=detail,
        remedy=to_do,
        waiting=waiting,
        waiters=waiters,
    )


def _waiting(view: ServiceView, backends: Iterable[BackendView]) -> tuple[int, Literal["container", "client"]]:
    """Count the containers that wait for a connection to `backends`. If Docker is not configured, count the clients.

    Returns:
        The count, and what it counts: `container` or `client`.
    """
    if view.docker is None:
        return sum(each.waiting for each in backends), "client"
    return len({name for each in backends for name, use in each.consumers.items() if use.waiting}), "container"
