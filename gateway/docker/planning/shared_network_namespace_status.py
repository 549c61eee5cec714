"""Reports the status of containers that use another container's network namespace (`network_mode: service:…`)."""

from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.plan import AttachmentState
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.snapshot import Container


def report_shared_namespace(
    builder: PlanBuilder, container: Container, network: str, aliases: tuple[str, ...], *, coming: bool
) -> None:
    """Report whether a container is attached to a network through the namespace of another container.

    Args:
        builder: The plan so far.
        container: The container that uses the namespace of the other container.
        network: A network that `container` requests.
        aliases: The aliases that `container` requests.
        coming: Whether the other container requests `network` too. If so, the gateway attaches the other container
            first.
    """

    def report(state: AttachmentState, reason: AttachmentObstacle | None, message: str) -> None:
        builder.report_container(container, network, state, reason, message)

    base = builder.observed.base(container)
    if base is None:
        message = f"it uses the network of a container that was removed: recreate container {container.name}"
        report(AttachmentState.BLOCKED, AttachmentObstacle.SHARED_NETWORK, message)
        return
    through = f"it uses the network of container {base.name}"
    endpoint = base.endpoints.get(network)
    if endpoint is None:
        refused = next(
            (each for each in builder.attachments
             if (each.container_id, each.network, each.state) == (base.id, network, AttachmentState.BLOCKED)),
            None,
        )  # fmt: skip
        if refused is not None:
            report(
                AttachmentState.BLOCKED,
                AttachmentObstacle.SHARED_NETWORK,
                f"{through}, which is blocked: {refused.message}",
            )
        elif coming:
            report(AttachmentState.PENDING, None, f"{through}, which the gateway attaches first")
        else:
            message = f"{through}, which is not attached: set the labels on that container"
            report(AttachmentState.BLOCKED, AttachmentObstacle.SHARED_NETWORK, message)
        return
    missing = [each for each in aliases if endpoint.aliases is not None and each.lower() not in endpoint.names]
    if missing:
        message = f"{through}, which lacks the aliases {', '.join(missing)}: set them on that container"
        report(AttachmentState.DRIFTED, AttachmentObstacle.SHARED_NETWORK, message)
    else:
        report(AttachmentState.ATTACHED, None, f"{through}, which is attached")
