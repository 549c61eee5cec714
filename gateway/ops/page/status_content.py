"""Prepares the content of the status page: groups of backends, notices, and recent changes. Does no I/O."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gateway.contracts.states import HealthState, TunnelState
from gateway.ops.docker_views import UnavailableContainerView
from gateway.ops.events import StateChange, SubjectType
from gateway.ops.severity import BACKEND_STATES, DisplaySeverity, backend_severity, tunnel_severity
from gateway.ops.status_views import BackendView, ServiceView, TunnelView
from gateway.ops.tunnel_root_causes import path_tunnels, with_outer_tunnels

MAX_CHANGES = 30
_SAME_TIME = 5.0
"""Maximum number of seconds between two similar events that the page shows in one line."""


@dataclass(frozen=True)
class TunnelGroup:
    """A group on the status page: the backends that use the same tunnels, and these tunnels.

    Args:
        paths: The names of the tunnels that lead to the targets; empty if the backends use no tunnel.
        tunnels: The tunnels in `paths` and all their outer tunnels, outermost first.
        backends: The backends, worst first.
    """

    paths: tuple[str, ...]
    tunnels: list[TunnelView]
    backends: list[BackendView]


@dataclass
class RecentChangeRow:
    """One row of the list of recent changes: one event, or several similar events at about the same time.

    Args:
        event: The event. If the row shows several events, the latest one.
        names: The names of the backends or tunnels whose state changed.
    """

    event: StateChange
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ConsumerRow:
    """One row of the table of consumers: how much one container uses one backend."""

    name: str
    backend: str
    connected: int
    waiting: int
    to_backend: int
    from_backend: int
    rejected: int


@dataclass(frozen=True)
class StatusPageNotices:
    """The problems that the status page shows in its section of notices.

    Args:
        reload_failed_at: When the last reload failed, in seconds since the epoch; None if it succeeded, or before the
            first reload.
        reload_error: Why the last reload failed; empty if it was successful.
        docker_problem: Why the gateway cannot use the Docker engine; None if the gateway can use it.
        unavailable: The containers that are unavailable.
        warnings: Warnings about the service and about Docker.
    """

    reload_failed_at: float | None
    reload_error: str
    docker_problem: str | None
    unavailable: Sequence[UnavailableContainerView]
    warnings: Sequence[str]

    @property
    def exist(self) -> bool:
        """Whether there is at least one notice."""
        return self.reload_failed_at is not None or bool(self.docker_problem or self.unavailable or self.warnings)


def notices(view: ServiceView) -> StatusPageNotices:
    """Return the problems for the notices on the status page, such as a failed reload."""
    docker = view.docker
    return StatusPageNotices(
        view.reload_failed_at,
        view.reload_error,
        docker.problem if docker else None,
        docker.unavailable if docker else (),
        [*view.warnings, *(docker.warnings if docker else ())],
    )


def groups(view: ServiceView) -> list[TunnelGroup]:
    """Return the groups of backends and their tunnels, worst first. Tunnels that no backend uses come last."""
    tunnels = {tunnel.name: tunnel for tunnel in view.tunnels}
    by_paths: dict[tuple[str, ...], list[BackendView]] = {}
    for backend in sorted(view.backends, key=lambda each: (BACKEND_STATES.index(each.state), each.name)):
        by_paths.setdefault(tuple(path_tunnels(backend)), []).append(backend)
    found = [TunnelGroup(names, with_outer_tunnels(tunnels, names), backends) for names, backends in by_paths.items()]
    used = {tunnel.name for group in found for tunnel in group.tunnels}
    found += [TunnelGroup((name,), with_outer_tunnels(tunnels, [name]), []) for name in tunnels if name not in used]
    return sorted(
        found,
        key=lambda each: (
            BACKEND_STATES.index(each.backends[0].state) if each.backends else len(BACKEND_STATES),
            each.paths,
        ),
    )


def heading(group: TunnelGroup) -> str:
    """Return the heading of a group of backends that use the same tunnels."""
    return f"Through {' or '.join(group.paths)}" if group.paths else "Without a tunnel"


def changes(events: Sequence[StateChange], limit: int = MAX_CHANGES) -> list[RecentChangeRow]:
    """Return the recent changes, latest first. Similar events at about the same time become one change.

    Args:
        events: All events, oldest first. Events of targets are skipped.
        limit: Maximum number of changes.
    """
    found: list[RecentChangeRow] = []
    for event in reversed(events):
        if event.subject.type is SubjectType.TARGET:
            continue
        last = next((each for each in found[-3:] if _similar(each.event, event)), None)
        if last is None:
            if len(found) == limit:
                break
            found.append(last := RecentChangeRow(event))
        if event.subject.name is not None:
            last.names.append(event.subject.name)
    return found


def some(names: Sequence[str], limit: int = 3) -> str:
    """Return a text with the first `limit` names and the number of other names: `a, b, c and 2 more`."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def _similar(one: StateChange, other: StateChange) -> bool:
    return (
        one.subject.type is other.subject.type
        and one.subject.name is not None
        and (one.previous, one.state, one.reason, one.detail)
        == (other.previous, other.state, other.reason, other.detail)
        and abs(one.at - other.at) < _SAME_TIME
    )


def consumer_rows(backends: Iterable[BackendView]) -> Iterator[ConsumerRow]:
    """Yield the rows of the table of consumers. Rows with the most waiting clients come first."""
    rows = (
        ConsumerRow(
            name=name,
            backend=backend.name,
            connected=use.active - use.waiting,
            waiting=use.waiting,
            to_backend=use.to_backend,
            from_backend=use.from_backend,
            rejected=sum(use.rejected.values()),
        )
        for backend in backends
        for name, use in backend.consumers.items()
    )
    yield from sorted(rows, key=lambda row: (-row.waiting, -row.connected, row.name, row.backend))


def event_level(event: StateChange) -> DisplaySeverity:
    """Return the severity of the state that an event reports."""
    match event.subject.type:
        case SubjectType.BACKEND | SubjectType.TARGET if event.state in list(HealthState):
            return backend_severity(HealthState(event.state))
        case SubjectType.TUNNEL if event.state in list(TunnelState):
            return tunnel_severity(TunnelState(event.state))
    return DisplaySeverity.WARNING if event.state in ("draining", "failed") else DisplaySeverity.GOOD
