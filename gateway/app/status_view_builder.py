"""Builds the status of backends, targets and certificates, for the status page, the JSON API and the metrics."""

import platform
from collections import Counter
from functools import reduce

from gateway import __version__
from gateway.app.backend_tunnel_view_builder import backend_tunnel_views
from gateway.app.certificate_expiry import NamedCredential
from gateway.app.monitored_target import MonitoredTarget
from gateway.app.running_backend import RunningBackend
from gateway.backends import target_remedy
from gateway.forwarding.consumer_usage import UsageCounters
from gateway.health.check import Check
from gateway.health.target_selection import TargetCandidate
from gateway.metric_types import Histogram
from gateway.ops.check_history_json import ChecksByTarget, RecordedCheck
from gateway.ops.events import EventLog, EventSubject, SubjectType
from gateway.ops.status_views import (
    BackendStateSummary,
    BackendView,
    CertificateView,
    ConsumerView,
    TargetView,
)

VERSION = __version__
PYTHON_VERSION = platform.python_version()


def credential_views(found: list[NamedCredential]) -> list[CertificateView]:
    """Return the status of each certificate, the earliest expiry first."""
    views = [CertificateView(each.kind, name, each.name, *each.validity) for name, each in found]
    return sorted(views, key=lambda each: each.expires)


def backend_status(running: RunningBackend, events: EventLog) -> BackendStateSummary:
    """Return the state of one backend. For the arguments, see `backend_view`."""
    found = running.evaluate()
    return BackendStateSummary(running.spec.name, found.state, found.reason, found.detail, _since(running, events))


def _since(running: RunningBackend, events: EventLog) -> float:
    tracker = running.state_tracker
    return events.began(EventSubject(SubjectType.BACKEND, running.spec.name), tracker.state, tracker.since)


def backend_view(running: RunningBackend, events: EventLog, *, knows_containers: bool) -> BackendView:
    """Return the status of one backend.

    Args:
        running: The backend.
        events: The event log. It shows when a failure began, even if the service has restarted since then.
        knows_containers: Whether the gateway can find a client's container by the client's source address. If False,
            the status omits the consumers of TCP listeners.
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


def _target(
    running: RunningBackend, monitored: MonitoredTarget, candidate: TargetCandidate, events: EventLog
) -> TargetView:
    """Return the status of a target.

    The status contains the state over the path that new clients use, and the combined counters of all paths. If
    nothing has changed, return the previous result. With hundreds of targets, this saves time.
    """
    name, tracker, checks = str(monitored.target), monitored.state_tracker, monitored.checks
    check = checks[monitored.choose()]
    since = events.began(EventSubject(SubjectType.TARGET, running.spec.name, name), tracker.state, tracker.since)
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
    """For each phase of a probe, return the number of measurements and their sum in seconds."""
    found: dict[str, tuple[int, float]] = {}
    for name, summary in (each for check in checks for each in check.phases.items()):
        count, seconds = found.get(name, (0, 0.0))
        found[name] = (count + summary.count, seconds + summary.sum)
    return found


def history(running: RunningBackend) -> ChecksByTarget:
    """Return the latest check results of each target, oldest first."""
    return {str(each.target): _recorded_checks(each) for each in running.targets}


def _recorded_checks(monitored: MonitoredTarget) -> list[RecordedCheck]:
    found = [RecordedCheck(check.tunnel, each) for check in monitored.checks for each in check.history.results()]
    return sorted(found, key=lambda each: each.result.at)
