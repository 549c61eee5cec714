"""What the running units look like at one moment."""

import platform
from collections import Counter
from collections.abc import Iterator
from functools import reduce
from typing import Any

from gateway import __version__
from gateway.app.expiry import Named
from gateway.app.fleet import Fleet
from gateway.app.running import Running
from gateway.app.site import Site
from gateway.app.worker.messages import NO_UPLINK, UplinkReport, uplink_report, usage_report
from gateway.app.worker.remote import RemoteForward
from gateway.config import TunnelSpec
from gateway.contracts import State, TunnelState
from gateway.facts import Fact
from gateway.forwarding.forward import Forward
from gateway.forwarding.handshake_budget import HandshakeBudget
from gateway.health.monitor import Check
from gateway.health.verdict import CheckResult
from gateway.measure import Histogram
from gateway.ops.answers import iso
from gateway.ops.view import (
    ActionView,
    AttachmentView,
    BackendView,
    ConsumerView,
    CredentialView,
    DeadView,
    DockerView,
    KnownConsumer,
    PeerView,
    ShadowView,
    Standing,
    TargetView,
    TunnelView,
    VolumeView,
)

VERSION = __version__
PYTHON_VERSION = platform.python_version()


def tunnel_views(site: Site) -> list[TunnelView]:
    """Every tunnel that is configured, and those that are not any more and drain."""
    configured = [
        _tunnel(spec, [*map(uplink_report, site.uplinks_of(spec.name)), *site.workers.reports(spec.name)])
        for spec in site.config.tunnels.values()
    ]
    draining: dict[str, tuple[TunnelSpec, list[UplinkReport]]] = {}
    for spec, uplink in site.draining():
        draining.setdefault(spec.name, (spec, []))[1].append(uplink_report(uplink))
    return configured + [_tunnel(spec, reports) for spec, reports in draining.values()]


def _tunnel(spec: TunnelSpec, reports: list[UplinkReport]) -> TunnelView:
    """All its lanes, here and in the workers, as one: it is up when all of them are."""
    worst = min(reports, key=lambda each: each.up, default=NO_UPLINK)
    return TunnelView(
        name=spec.name,
        kind=spec.kind.name,
        via=spec.via,
        far_side=spec.kind.create(spec.options).far_side,
        state=worst.state,
        reason=worst.reason,
        detail=worst.described if worst.state is TunnelState.WAITING else worst.detail,
        since=worst.since,
        connects=sum(each.connects for each in reports),
        failures=dict(sum((Counter(each.failures) for each in reports), Counter())),
        rtt=worst.rtt,
        channel_open=reduce(Histogram.plus, (each.channel_open for each in reports), Histogram()),
        details=_details([each.details for each in reports if each.details], spec.kind.facts),
        facts=spec.kind.facts,
    )


def _details(all_details: list[dict[str, Any]], facts: tuple[Fact, ...]) -> dict[str, Any]:
    """Return the details of the first link, with the sums of additive facts."""
    together = dict(all_details[0]) if all_details else {}
    for key in (fact.key for fact in facts if fact.additive):
        if key in together:
            together[key] = sum(each.get(key, 0) for each in all_details)
    return together


def credential_views(found: list[Named]) -> list[CredentialView]:
    """Certificates, those that expire first before the others."""
    made = [CredentialView(each.kind, name, each.name, *each.validity) for name, each in found]
    return sorted(made, key=lambda each: each.expires)


def standing(running: Running) -> Standing:
    """How one backend stands."""
    state, reason, detail = running.judge()
    return Standing(running.spec.name, state, reason, detail, running.since)


def backend_view(running: Running, *, knows_containers: bool) -> BackendView:
    """One backend."""
    spec, forward = running.spec, running.forward
    state, reason, detail = running.judge()
    return BackendView(
        name=spec.name,
        kind=spec.kind.name,
        via=spec.via,
        listen=[str(address) for address in spec.listen],
        prefer=spec.prefer,
        state=state,
        reason=reason,
        detail=detail,
        since=running.since,
        facts=spec.kind.facts,
        targets=[_target(check, running.budgets.get(check.target)) for check in running.checks],
        connections=forward.active,
        connections_total=forward.accepted,
        rejected=dict(forward.rejected),
        resets=dict(forward.resets),
        to_backend=forward.to_backend,
        from_backend=forward.from_backend,
        latency=forward.latency.copy(),
        failing=forward.fail_fast,
        consumers={
            name: each
            for name, each in _consumers(forward).items()
            # Where containers are not known, consumers of TCP are addresses, which are not shown.
            if knows_containers or name in {socket.consumer for socket in spec.sockets}
        },
    )


def _consumers(forward: Forward | RemoteForward) -> dict[str, ConsumerView]:
    if isinstance(forward, Forward):
        reports = {name: usage_report(usage) for name, usage in forward.consumers.items()}
    else:
        reports = forward.used()
    return {
        name: ConsumerView(
            each.id, each.active, each.total, each.rejected, each.to_backend, each.from_backend, each.latency
        )
        for name, each in reports.items()
    }


def docker_view(fleet: Fleet) -> DockerView | None:
    """What is known of the engine; None where Docker is not configured."""
    reconciler = fleet.reconciler
    if reconciler is None:
        return None
    observed, plan = reconciler.observed, reconciler.plan
    return DockerView(
        trouble=reconciler.trouble,
        looked_at=reconciler.looked_at,
        leader=bool(observed and observed.swarm.leader),
        container=observed.own if observed else None,
        attachments=[
            AttachmentView(each.network, each.container, each.state, each.reason, each.message)
            for each in plan.conditions
        ],
        volumes=[
            VolumeView(each.spec.name, each.state, each.message, each.spec.driver_options) for each in plan.volumes
        ],
        actions=[
            ActionView(each.verb, each.network, each.container, list(each.aliases), each.why) for each in plan.actions
        ],
        shadows=[ShadowView(each.container, each.network, each.name, each.ours, each.other) for each in plan.shadows],
        warnings=[*plan.warnings, *plan.exposures, *(fleet.peers.warnings() if fleet.peers else ())],
        postponed=plan.postponed,
        dead=[
            DeadView(each.container, each.cause, each.detail, each.state, each.message, each.command)
            for each in plan.dead
        ],
        revived=dict(reconciler.revivals.revived),
        writes=dict(reconciler.writes),
        errors=dict(reconciler.errors),
        consumers={each.name: KnownConsumer(each.id, each.labels) for each in reconciler.directory.everybody()},
        peers=[
            PeerView(
                network=each.meeting.name,
                address=each.address,
                instance=each.report.instance if each.report else None,
                containers=len(each.report.claims) if each.report else 0,
                trouble=each.trouble or None,
            )
            for each in (fleet.peers.known if fleet.peers else ())
        ],
    )


def _target(check: Check, budget: HandshakeBudget | None) -> TargetView:
    verdict, probe_result, last = check.verdict, check.probe_result, check.last
    return TargetView(
        target=str(check.target),
        state=verdict.state,
        reason=verdict.reason,
        detail=check.uplink.describe() if verdict.state is State.BLOCKED else verdict.detail,
        since=check.since,
        flapping=verdict.flapping,
        role=probe_result.role,
        facts=probe_result.facts,
        last_check=last.at if last else None,
        last_success=check.last_success,
        last_duration=last.duration if last else None,
        last_phases=last.phases if last else {},
        attempts=check.attempts,
        failures=dict(check.failures),
        broken_handshakes=budget.aborted if budget else None,
        duration=check.duration.copy(),
        phases={name: (summary.count, summary.sum) for name, summary in check.phases.items()},
    )


def history(running: Running) -> dict[str, list[dict[str, Any]]]:
    """The last checks of each target, oldest first."""
    return {str(check.target): list(_results(check.history.results())) for check in running.checks}


def _results(results: list[CheckResult]) -> Iterator[dict[str, Any]]:
    for result in results:
        yield {
            "time": iso(result.at),
            "state": result.state,
            "reason": result.reason,
            "detail": result.detail,
            "duration_seconds": result.duration,
            "phases_seconds": result.phases,
        }
