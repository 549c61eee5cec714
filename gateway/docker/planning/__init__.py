"""Compares the desired state with the observed state, and plans the actions. Does no I/O."""

from collections.abc import Iterator

from gateway.docker.consumer_identity_warnings import image_label_warnings, spoofing_warnings
from gateway.docker.desired_state import DesiredState, backends_on
from gateway.docker.plan import ActionKind, Plan, PlannedAction
from gateway.docker.planning.attachments import attach, detach
from gateway.docker.planning.gateway_container import address_warnings, duplicate_gateways, reattach_stopped_gateway
from gateway.docker.planning.gateway_container_egress import egress_warnings
from gateway.docker.planning.lost_network_namespaces import later_starts, shared_namespaces
from gateway.docker.planning.networks import create_networks, remove_networks
from gateway.docker.planning.per_project_networks import expand_projects
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.planning.restart_of_unavailable_containers import revive
from gateway.docker.planning.swarm_service_updates import update_services
from gateway.docker.planning.volumes import create_body, mount_problems, volume_status
from gateway.docker.snapshot import EngineSnapshot
from gateway.docker.volumes import VolumeStatus


def plan(
    desired: DesiredState,
    observed: EngineSnapshot,
    ours: frozenset[tuple[str, str]],
    seen: frozenset[tuple[str, str]] = frozenset(),
) -> Plan:
    """Compare the desired state with the observed state, and return the plan.

    Args:
        desired: The desired state.
        observed: The observed state.
        ours: The container ID and network name of each endpoint that the gateway created.
        seen: The endpoints in `ours` that this or an earlier snapshot contained, except those that the gateway has
            detached. If one is missing now, an operator or another program detached it.
    """
    desired = expand_projects(desired, observed)
    builder = PlanBuilder(desired, observed, ours, seen)
    create_networks(builder)
    if builder.options.networks and desired.backends and observed.own is None:
        builder.warnings.append(
            "the gateway does not run in a container of this engine, so the backends' names do not resolve "
            "(if it does run in one, set docker.container)"
        )
    builder.warnings += egress_warnings(builder)
    if builder.options.services and not observed.flavor.has_swarm:
        builder.warnings.append(
            f"docker.services: {observed.flavor.name} has no swarm services: remove the key, and set the labels on"
            " containers"
        )
    builder.warnings += [
        f"container {each.name} cannot be inspected ({each.problem}), so the gateway does not change it: repair or "
        "remove the container"
        for each in observed.containers
        if each.problem
    ]
    builder.warnings += image_label_warnings(desired, observed)
    builder.warnings += duplicate_gateways(builder)
    builder.warnings += address_warnings(builder)
    attach(builder)
    reattach_stopped_gateway(builder)
    update_services(builder)
    detach(builder)
    remove_networks(builder)
    unavailable = revive(builder)
    volumes = tuple(_volumes(builder))
    exposures = tuple(spoofing_warnings(desired, observed))
    return Plan(
        tuple(builder.actions),
        tuple(builder.attachments),
        tuple(builder.warnings),
        volumes=volumes,
        label_errors=frozenset(builder.label_errors),
        name_conflicts=tuple(builder.name_conflicts),
        networks={name: backends_on(builder.desired, name) for name in builder.options.networks},
        exposures=exposures,
        unavailable=unavailable,
        namespaces=shared_namespaces(builder),
        later_starts=later_starts(builder),
    )


def _volumes(builder: PlanBuilder) -> Iterator[VolumeStatus]:
    prefix, instance = builder.options.label_prefix, builder.desired.instance
    there = {each.name: each for each in builder.observed.volumes}
    own = builder.observed.own_container
    mode = own.network_mode if own is not None else None
    builder.warnings += mount_problems(builder.observed.info, builder.options.host, mode, builder.desired.volumes)
    for spec in builder.desired.volumes:
        status = volume_status(spec, there.get(spec.name), prefix, instance)
        yield status
        if status.change is not None:
            verb = ActionKind.CREATE_VOLUME if status.change == "create" else ActionKind.RECREATE_VOLUME
            made = create_body(spec, prefix, instance)
            builder.actions.append(PlannedAction(verb, spec.name, spec.name, why=status.message, body=made))
