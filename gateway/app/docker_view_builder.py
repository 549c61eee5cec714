"""Builds the status of the Docker engine, for the status page, the JSON API and the metrics."""

from gateway.app.docker_reconciler_manager import DockerReconcilerManager
from gateway.ops.docker_views import (
    AttachmentView,
    ConsumerContainerView,
    DockerView,
    NameConflictView,
    PlannedChangeView,
    SwarmPeerView,
    UnavailableContainerView,
    VolumeView,
)


def docker_view(docker: DockerReconcilerManager) -> DockerView | None:
    """Return the status of the Docker engine; None if Docker is not configured."""
    reconciler = docker.reconciler
    if reconciler is None:
        return None
    observed, plan = reconciler.observed, reconciler.plan
    return DockerView(
        problem=reconciler.problem,
        observed_at=reconciler.observed_at,
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
        name_conflicts=[
            NameConflictView(each.container, each.network, each.name, each.ours, each.other)
            for each in plan.name_conflicts
        ],
        warnings=[*plan.warnings, *plan.exposures, *(docker.peers.warnings() if docker.peers else ())],
        postponed=plan.postponed,
        unavailable=[
            UnavailableContainerView(
                each.container, each.cause, each.detail, each.state, each.message, each.command, each.is_excluded
            )
            for each in plan.unavailable
        ],
        revived=dict(reconciler.start_attempts.revived),
        writes=dict(reconciler.writes),
        errors=dict(reconciler.errors),
        consumers={
            each.name: ConsumerContainerView(each.id, each.labels) for each in reconciler.registry.consumers()
        },
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
