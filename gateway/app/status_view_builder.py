"""Builds the snapshots for the status page, the JSON API and the metrics from the running components."""

import platform
from collections import Counter
from collections.abc import Iterator
from functools import reduce
from typing import Any

from gateway import __version__
from gateway.app.backend_tunnel_view import backend_tunnel_views
from gateway.app.certificate_expiry import NamedCredential
from gateway.app.docker_manager import DockerManager
from gateway.app.monitored_target import MonitoredTarget
from gateway.app.running_backend import RunningBackend
from gateway.app.runtime import Runtime
from gateway.backends import target_remedy
from gateway.config import TunnelSpec
from gateway.contracts.link import LinkStatus
from gateway.contracts.states import TunnelState
from gateway.facts import FactDefinition
from gateway.forwarding.consumer_usage import UsageCounters
from gateway.health.check import Check
from gateway.health.target_selection import TargetCandidate
from gateway.measurement import Histogram
from gateway.ops.docker_views import (
    AttachmentView,
    ConsumerContainer,
    DockerView,
    NameConflictView,
    PlannedChangeView,
    SwarmPeerView,
    UnavailableContainerView,
    VolumeView,
)
from gateway.ops.events import EventLog, EventSubject, SubjectType
from gateway.ops.status_json import iso
from gateway.ops.status_views import (
    BackendStatus,
    BackendView,
    CertificateView,
    ConsumerView,
    TargetView,
    TunnelView,
)
from gateway.supervision.uplink import Uplink

VERSION = __version__
PYTHON_VERSION = platform.python_version()


def tunnel_views(runtime: Runtime, events: EventLog) -> list[TunnelView]:
    """Return the status of the configured tunnels, and of the removed tunnels that still drain.

    Args:
        runtime: The runtime.
        events: The event log. It shows when a failure began, even if this was before a restart.
    """
    configured = [
        _tunnel(spec, runtime.uplinks.of_tunnel(spec.name), events) for spec in runtime.config.tunnels.values()
    ]
    draining: dict[str, tuple[TunnelSpec, list[Uplink]]] = {}
    for spec, uplink in runtime.uplinks.draining():
        draining.setdefault(spec.name, (spec, []))[1].append(uplink)
    return configured + [_tunnel(spec, uplinks, events) for spec, uplinks in draining.values()]


def _tunnel(spec: TunnelSpec, uplinks: list[Uplink], events: EventLog) -> TunnelView:
    """Return the status of a tunnel from all its uplinks. The tunnel is up if all of them are up.

    Args:
        spec: The configuration of the tunnel.
        uplinks: One uplink for each traffic class; at least one.
        events: As for `tunnel_views`.
    """
    worst, statuses = worst_uplink(uplinks), {each: _link_status(each) for each in uplinks}
    return TunnelView(
        name=spec.name,
        kind=spec.kind.name,
        via=spec.via,
        via_in_use=worst.via_in_use,
        far_side=spec.kind.create(spec.options).far_side,
        state=worst.state,
        reason=worst.reason,
        detail=worst.describe() if worst.state is TunnelState.WAITING else worst.detail,
        since=events.began(EventSubject(SubjectType.TUNNEL, spec.name), worst.state, worst.since),
        connects=sum(each.connects for each in uplinks),
        failures=dict(sum((Counter(each.failures) for each in uplinks), Counter())),
        rtt=statuses[worst].rtt,
        channel_open=reduce(Histogram.plus, (each.channel_open for each in uplinks), Histogram()),
        details=_details([each.details for each in statuses.values() if each.details], spec.kind.facts),
        facts=spec.kind.facts,
    )


def worst_uplink(uplinks: list[Uplink]) -> Uplink:
    """Return the uplink that determines the state of a tunnel: the first one that is not up, or else the first one.

    Args:
        uplinks: All uplinks of the tunnel; at least one.
    """
    return min(uplinks, key=lambda each: each.link is not None)


def _link_status(uplink: Uplink) -> LinkStatus:
    return uplink.opened.status() if uplink.opened else LinkStatus()


def _details(all_details: list[dict[str, Any]], facts: tuple[FactDefinition, ...]) -> dict[str, Any]:
    """Return the details of a tunnel from the details of its uplinks.

    If a fact (kind-specific value) is declared as additive, such as a counter, sum its values. For all other facts,
    use the first uplink.
    """
    combined = dict(all_details[0]) if all_details else {}
    for key in (fact.key for fact in facts if fact.additive):
        if key in combined:
            combined[key] = sum(each.get(key, 0) for each in all_details)
    return combined


def credential_views(found: list[NamedCredential]) -> list[CertificateView]:
    """Return the status of each certificate, in the order of expiry."""
    views = [CertificateView(each.kind, name, each.name, *each.validity) for name, each in found]
    return sorted(views, key=lambda each: each.expires)


def backend_status(running: RunningBackend, events: EventLog) -> BackendStatus:
    """Return the state of one backend. The arguments are those of `backend_view`."""
    found = running.evaluate()
    return BackendStatus(running.spec.name, found.state, found.reason, found.detail, _since(running, events))


def _since(running: RunningBackend, events: EventLog) -> float:
    clock = running.clock
    return events.began(EventSubject(SubjectType.BACKEND, running.spec.name), clock.state, clock.since)


def backend_view(running: RunningBackend, events: EventLog, *, knows_containers: bool) -> BackendView:
    """Return the status of one backend.

    Args:
        running: The backend.
        events: The event log. It shows when a failure began, even if this was before a restart.
        knows_containers: Whether the gateway identifies the containers behind source addresses. If not, the status
            omits the consumers of TCP listeners, because the gateway knows only their addresses.
    """
    spec, forward, candidates = running.spec, running.forward, running.candidates()
    found = running.evaluate(candidates)
    return BackendView(
        name=spec.name,
        kind=spec.kind.name,
        via=spec.via,
        listen=[str(address) for address in spec.listen],
        prefer=spec.prefer,
        state=found.state,
        reason=found.reason,
        detail=found.detail,
        remedy=found.remedy or target_remedy(spec.kind.name, found.reason),
        since=_since(running, events),
        facts=spec.kind.facts,
        targets=[_target(running, *each, events) for each in zip(running.targets, candidates, strict=True)],
        paths=backend_tunnel_views(running),
        connections=forward.active,
        waiting=forward.waiting,
        connections_total=forward.accepted,
        rejected=dict(forward.rejected),
        resets=dict(forward.resets),
        to_backend=forward.to_backend,
        from_backend=forward.from_backend,
        latency=forward.latency.copy(),
        max_connections=spec.max_connections,
        failing=forward.fail_fast,
        consumers={
            name: _consumer(usage)
            for name, usage in forward.consumers.items()
            if knows_containers or name in {socket.consumer for socket in spec.sockets}
        },
    )


def _consumer(usage: UsageCounters) -> ConsumerView:
    return ConsumerView(
        usage.id, usage.active, usage.total, dict(usage.rejected), usage.to_backend, usage.from_backend,
        usage.latency.copy(), usage.waiting,
    )  # fmt: skip


def docker_view(docker: DockerManager) -> DockerView | None:
    """Return the status of the Docker engine; None if Docker is not configured."""
    reconciler = docker.reconciler
    if reconciler is None:
        return None
    observed, plan = reconciler.observed, reconciler.plan
    return DockerView(
        trouble=reconciler.problem,
        looked_at=reconciler.observed_at,
        leader=bool(observed and observed.swarm.leader),
        container=observed.own if observed else None,
        attachments=[
            AttachmentView(each.network, each.container, each.state, each.reason, each.message)
            for each in plan.attachments
        ],
        volumes=[
            VolumeView(each.spec.name, each.state, each.message, each.spec.driver_options) for each in plan.volumes
        ],
        actions=[
            PlannedChangeView(each.verb, each.network, each.container, list(each.aliases), each.why)
            for each in plan.actions
        ],
        shadows=[
            NameConflictView(each.container, each.network, each.name, each.ours, each.other)
            for each in plan.name_conflicts
        ],
        warnings=[*plan.warnings, *plan.exposures, *(docker.peers.warnings() if docker.peers else ())],
        postponed=plan.postponed,
        dead=[
            UnavailableContainerView(
                each.container, each.cause, each.detail, each.state, each.message, each.command, each.is_excluded
            )
            for each in plan.dead
        ],
        revived=dict(reconciler.revivals.revived),
        writes=dict(reconciler.writes),
        errors=dict(reconciler.errors),
        consumers={each.name: ConsumerContainer(each.id, each.labels) for each in reconciler.directory.consumers()},
        peers=[
            SwarmPeerView(
                network=each.network.name,
                address=each.address,
                instance=each.report.instance if each.report else None,
                containers=len(each.report.entries) if each.report else 0,
                trouble=each.problem or None,
            )
            for each in (docker.peers.known if docker.peers else ())
        ],
    )


def _target(
    running: RunningBackend, monitored: MonitoredTarget, candidate: TargetCandidate, events: EventLog
) -> TargetView:
    """Return the status of a target: its state over the path that new clients use, and the counters of all paths.

    If nothing has changed, return the previous result. This saves time, because a site can have hundreds of targets.
    """
    name, clock, checks = str(monitored.target), monitored.clock, monitored.checks
    check = checks[monitored.choose()]
    since = events.began(EventSubject(SubjectType.TARGET, running.spec.name, name), clock.state, clock.since)
    budgets = [running.budget(each.target, each.tunnel) for each in checks]
    aborted = max((each.aborted for each in budgets if each is not None), default=None)
    attempts = [each.attempts for each in checks]
    content = check, candidate, since, aborted, attempts, check.verdict.flapping, check.history.last
    if monitored.view is None or monitored.view[0] != content:
        last, probe_result = check.last, monitored.record.probe_result
        view = TargetView(
            target=name,
            tunnel=check.tunnel,
            state=candidate.state,
            reason=candidate.reason,
            detail=candidate.detail,
            remedy=candidate.remedy or target_remedy(running.spec.kind.name, candidate.reason),
            since=since,
            flapping=check.verdict.flapping,
            role=probe_result.role,
            facts=probe_result.facts,
            last_check=last.at if last else None,
            last_success=monitored.last_success,
            last_duration=last.duration if last else None,
            last_phases=last.phases if last else {},
            attempts=sum(attempts),
            failures=dict(sum((Counter(each.failures) for each in checks), Counter())),
            broken_handshakes=aborted,
            duration=reduce(Histogram.plus, (each.duration for each in checks), Histogram()),
            phases=_phases(checks),
            history=check.history.latest(),
            failed_checks=check.history.failures(),
        )
        monitored.view = content, view
    return monitored.view[1]


def _phases(checks: list[Check]) -> dict[str, tuple[int, float]]:
    """Return how often each phase of a check ran, and its total duration in seconds, summed over `checks`."""
    found: dict[str, tuple[int, float]] = {}
    for name, summary in (each for check in checks for each in check.phases.items()):
        count, seconds = found.get(name, (0, 0.0))
        found[name] = (count + summary.count, seconds + summary.sum)
    return found


def history(running: RunningBackend) -> dict[str, list[dict[str, Any]]]:
    """Return the last checks of each target, oldest first, ready for JSON."""
    return {str(each.target): list(_results(each)) for each in running.targets}


def _results(monitored: MonitoredTarget) -> Iterator[dict[str, Any]]:
    results = [(check.tunnel, result) for check in monitored.checks for result in check.history.results()]
    for tunnel, result in sorted(results, key=lambda each: each[1].at):
        yield {
            "time": iso(result.at),
            "via": tunnel,
            "state": result.state,
            "reason": result.reason,
            "detail": result.detail,
            "duration_seconds": result.duration,
            "phases_seconds": result.phases,
        }
