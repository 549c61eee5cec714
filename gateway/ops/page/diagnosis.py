"""Computes the diagnosis on the status page: which parts have failed, since when, and what depends on them.

Does no I/O. Times are in seconds since the epoch.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.contracts.states import HealthState, TunnelState
from gateway.ops.events import EventType, Transition
from gateway.ops.page.reason_texts import cause, remedy, state_name
from gateway.ops.status_views import BackendView, ServiceView, TunnelView

MAX_CAUSES = 5
"""Number of causes that the page shows. It counts the others."""
SEVERITY = (
    HealthState.DOWN,
    HealthState.BLOCKED,
    HealthState.DEGRADED,
    HealthState.UNKNOWN,
    HealthState.PAUSED,
    HealthState.UP,
)
"""The states of backends, worst first."""
_OPEN = (TunnelState.UP, TunnelState.DRAINING)


class Level(StrEnum):
    """How severe a state is. The values are CSS classes."""

    BAD = "bad"
    WARNING = "warning"
    GOOD = "good"


@dataclass(frozen=True)
class FailedPart:
    """A part that has failed, and its consequences.

    Args:
        level: The severity.
        part: `tunnel` or `backend`.
        name: The name of the part.
        state: Its state.
        since: When the state began.
        cause: Why, in a few words.
        detail: One line of text.
        blocked: Number of backends that the tunnel blocks.
        waiting: Number of containers that wait, or of clients if containers are not known.
        waiters: What `waiting` counts: `container` or `client`.
        remedy: What to do; empty if there is nothing to do.
    """

    level: Level
    part: str
    name: str
    state: str
    since: float
    cause: str
    detail: str
    blocked: int
    waiting: int
    waiters: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """The state of the whole service.

    Args:
        level: The severity.
        headline: The number of backends in each state.
        causes: The failed parts, worst first.
        more: Number of further failed parts.
    """

    level: Level
    headline: str
    causes: list[FailedPart]
    more: int

    @property
    def title(self) -> str:
        """The diagnosis in a few words, for the title of the page."""
        first = next(iter(self.causes), None)
        return f"{first.name} {state_name(first.state)}; {self.headline}" if first else self.headline


def diagnose(view: ServiceView) -> Diagnosis:
    """Return the diagnosis of a service."""
    tunnels = {tunnel.name: tunnel for tunnel in view.tunnels}
    causes = [*_tunnel_causes(view, tunnels), *_backend_causes(view, tunnels)]
    causes.sort(key=lambda each: (each.level is not Level.BAD, -each.blocked, each.since))
    if any(each.level is Level.BAD for each in causes):
        level = Level.BAD
    else:
        level = Level.WARNING if causes or view.status != "ready" or not view.reload_successful else Level.GOOD
    return Diagnosis(level, _headline(view), causes[:MAX_CAUSES], max(0, len(causes) - MAX_CAUSES))


def ways(backend: BackendView) -> list[str]:
    """Return the names of the tunnels through which the targets of a backend can be reached."""
    return [way.tunnel for way in backend.ways]


def chain(tunnels: Mapping[str, TunnelView], names: Iterable[str]) -> list[TunnelView]:
    """Return the tunnels of one or several ways, with all tunnels around them, outermost first.

    Args:
        tunnels: All tunnels by name.
        names: The innermost tunnel of each way.
    """
    found: dict[str, TunnelView] = {}
    for name in names:
        if name in tunnels:
            found |= {each.name: each for each in chain(tunnels, tunnels[name].via)}
            found[name] = tunnels[name]
    return list(found.values())


def failed_tunnels(tunnels: Mapping[str, TunnelView], name: str) -> list[TunnelView]:
    """Return why a tunnel is down: the outermost tunnels that have failed; empty if the tunnel is open.

    Args:
        tunnels: All tunnels by name.
        name: The tunnel.
    """
    tunnel = tunnels.get(name)
    if tunnel is None or tunnel.state in _OPEN:
        return []
    outer = [failed_tunnels(tunnels, via) for via in tunnel.via]
    return list(itertools.chain.from_iterable(outer)) if outer and all(outer) else [tunnel]


def root_causes(tunnels: Mapping[str, TunnelView], backend: BackendView) -> list[TunnelView]:
    """Return the tunnels that block a backend; empty if it is not blocked, or if the cause is not known."""
    failed = [failed_tunnels(tunnels, name) for name in ways(backend)] if backend.state is HealthState.BLOCKED else []
    return list({each.name: each for tunnels_of_way in failed for each in tunnels_of_way}.values())


def backend_level(state: HealthState) -> Level:
    """Return the severity of a backend's state."""
    if state is HealthState.UP:
        return Level.GOOD
    return Level.BAD if state in (HealthState.DOWN, HealthState.BLOCKED) else Level.WARNING


def tunnel_level(state: TunnelState) -> Level:
    """Return the severity of a tunnel's state."""
    if state in _OPEN:
        return Level.GOOD
    return (
        Level.BAD if state in (TunnelState.BACKOFF, TunnelState.QUARANTINED, TunnelState.WAITING) else Level.WARNING
    )


def event_level(event: Transition) -> Level:
    """Return the severity of an event's state."""
    match event.subject.type:
        case EventType.BACKEND | EventType.TARGET if event.state in list(HealthState):
            return backend_level(HealthState(event.state))
        case EventType.TUNNEL if event.state in list(TunnelState):
            return tunnel_level(TunnelState(event.state))
    return Level.WARNING if event.state in ("draining", "failed") else Level.GOOD


def plural(count: int, noun: str) -> str:
    """Return a number and a noun, such as `1 client` or `2 clients`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _headline(view: ServiceView) -> str:
    total = len(view.backends)
    counts = {state: sum(each.state is state for each in view.backends) for state in SEVERITY}
    if not total:
        found = "no backend is configured"
    elif counts[HealthState.UP] == total:
        found = f"{'the backend is' if total == 1 else f'all {total} backends are'} up"
    else:
        found = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        found = f"{plural(total, 'backend')}: {found}"
    phases = {"starting": "Starting, the first checks run: ", "draining": "Draining, not ready: "}
    text = phases.get(view.status, "") + found
    return text[0].upper() + text[1:]


def _tunnel_causes(view: ServiceView, tunnels: dict[str, TunnelView]) -> Iterator[FailedPart]:
    affected: dict[str, list[BackendView]] = {}
    for backend in view.backends:
        for failed in root_causes(tunnels, backend):
            affected.setdefault(failed.name, []).append(backend)
    for tunnel in view.tunnels:
        if failed_tunnels(tunnels, tunnel.name) != [tunnel]:
            continue
        backends = affected.get(tunnel.name, [])
        waiting, waiters = _waiting(view, backends)
        yield FailedPart(
            level=Level.BAD if backends else Level.WARNING,
            part="tunnel",
            name=tunnel.name,
            state=tunnel.state,
            since=tunnel.since,
            cause=cause(tunnel.reason, tunnel.state),
            detail=tunnel.detail,
            blocked=len(backends),
            waiting=waiting,
            waiters=waiters,
            remedy=remedy(tunnel),
        )


def _backend_causes(view: ServiceView, tunnels: dict[str, TunnelView]) -> Iterator[FailedPart]:
    for backend in view.backends:
        unchecked = backend.state is HealthState.UNKNOWN and not view.startup_done
        if backend.state is HealthState.UP or root_causes(tunnels, backend) or unchecked:
            continue
        waiting, waiters = _waiting(view, [backend])
        yield FailedPart(
            level=backend_level(backend.state),
            part="backend",
            name=backend.name,
            state=backend.state,
            since=backend.since,
            cause=cause(backend.reason, backend.state),
            detail=backend.detail,
            blocked=0,
            waiting=waiting,
            waiters=waiters,
            remedy=remedy(backend),
        )


def _waiting(view: ServiceView, backends: Iterable[BackendView]) -> tuple[int, str]:
    """Return how many containers, or clients if containers are not known, wait, and which of both are counted."""
    if view.docker is None:
        return sum(each.waiting for each in backends), "client"
    return len({name for each in backends for name, use in each.consumers.items() if use.waiting}), "container"
