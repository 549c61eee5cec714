"""Determines the desired networks of a container from its labels, grants and rules."""

from gateway.docker import labels
from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.consumer_registry import client_networks
from gateway.docker.plan import AttachmentState
from gateway.docker.planning.attachability import container_block_reason
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.snapshot import LIVE, Container


def desired_networks(builder: PlanBuilder, container: Container) -> dict[str, tuple[str, ...]]:
    """Return a container's aliases on each of its desired networks.

    Add warnings about the container's labels to the plan. If `docker.grants` does not permit the container's request,
    return no networks, and add each requested attachment to the plan with the state `blocked`.
    """
    if container.id == builder.observed.own:
        return {name: builder.gateway_aliases(name) for name in builder.options.networks}
    request = builder.request(container.name, container.name, container.labels)
    if request is None:
        _idle(builder, container)
    if request is None or (request.detach_on_stop and container.state not in LIVE):
        return {}
    networks = builder.networks_of(request, container.name, container.name, container.labels)
    if request.refused:
        for name in networks:
            builder.report_container(
                container, name, AttachmentState.BLOCKED, AttachmentObstacle.NOT_GRANTED, request.refused
            )
        return {}
    return dict.fromkeys(networks, request.aliases)


def desired_networks_without_report(builder: PlanBuilder, container: Container) -> dict[str, tuple[str, ...]]:
    """Return the result of `desired_networks`, but leave the plan unchanged."""
    warnings, label_errors, attachments = len(builder.warnings), len(builder.label_errors), len(builder.attachments)
    found = desired_networks(builder, container)
    del builder.warnings[warnings:], builder.label_errors[label_errors:], builder.attachments[attachments:]
    return found


def attachable_networks(builder: PlanBuilder, container: Container) -> set[str]:
    """Return the desired networks to which a container can be attached.

    Args:
        builder: The plan so far.
        container: A container other than the gateway's own.
    """
    return (
        set()
        if container.joins or container_block_reason(container)[0]
        else set(desired_networks(builder, container))
    )


def _idle(builder: PlanBuilder, container: Container) -> None:
    """Warn about a container's labels that have no effect because the label `enable` is absent.

    Do not warn if the gateway might identify the container by its address (see `client_networks`), because the key
    `allow` of a backend can then match the labels.
    """
    mistakes = labels.missing_enable_warnings(
        container.labels, builder.options.label_prefix, builder.desired.instance
    )
    shared = client_networks(builder.observed, builder.options) if mistakes else None
    if shared is not None and not container.endpoints.keys() & {*shared, *builder.options.networks}:
        builder.report_label_errors(container.name, mistakes)
