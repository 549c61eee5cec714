"""Decides whether a container can be attached to a network, and if not, why."""

from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.planning.networks import no_overlay
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.snapshot import Container

_USER_MODE = {"pasta", "slirp4netns"}
"""The network modes with which a container of rootless Podman cannot join networks."""


def block_reason(builder: PlanBuilder, container: Container, name: str) -> tuple[AttachmentObstacle | None, str]:
    """Return the obstacle that prevents attaching a container to a network, and a message about the obstacle.

    Return None and an empty message if the container can be attached.
    """
    blocked, message = container_block_reason(container)
    return (blocked, message) if blocked is not None else _network_block_reason(builder, name)


def container_block_reason(container: Container) -> tuple[AttachmentObstacle | None, str]:
    """Return the obstacle that prevents attaching a container to any network, and a message about the obstacle.

    Return None and an empty message if there is no such obstacle.
    """
    mode = container.network_mode
    if mode == "host":
        return (
            AttachmentObstacle.HOST_NETWORK,
            "it uses the host's network: connect to listeners at the host's addresses",
        )
    if mode == "none":
        return AttachmentObstacle.NO_NETWORK, "it was created with --network none: recreate it without this option"
    if mode in _USER_MODE:
        message = f"it uses {mode}, with which Podman cannot join a network: recreate it with --network bridge"
        return AttachmentObstacle.NOT_ATTACHABLE, message
    if container.is_task:
        return (
            AttachmentObstacle.SWARM_TASK,
            "it is a task of a service: set the labels on the service, and set docker.services",
        )
    return None, ""


def _network_block_reason(builder: PlanBuilder, name: str) -> tuple[AttachmentObstacle | None, str]:
    network = builder.known.get(name)
    options = builder.desired.network(name)
    overlay = network.driver == "overlay" if network else builder.driver(options) == "overlay"
    if network is not None and overlay and not network.attachable:
        return (
            AttachmentObstacle.NOT_ATTACHABLE,
            f"only services can join network {name}: recreate it with --attachable",
        )
    if name in builder.no_free_range:
        return AttachmentObstacle.IP_EXHAUSTED, builder.no_free_range[name]
    if network is None and name not in builder.creatable:
        swarm = builder.observed.swarm
        if overlay and not builder.observed.flavor.has_swarm:
            return AttachmentObstacle.NOT_MANAGER, no_overlay(builder, name)
        if overlay and not swarm.member:
            return (
                AttachmentObstacle.NOT_MANAGER,
                f"network {name} is an overlay, and this engine is not in a swarm",
            )
        if not overlay or swarm.leader:
            return (
                AttachmentObstacle.UNKNOWN_NETWORK,
                f"network {name} does not exist, and docker.networks.NAME.create is false",
            )
    return None, ""
