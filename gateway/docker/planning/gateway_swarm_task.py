"""Checks whether a gateway that runs as a swarm task has the required networks and aliases."""

from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.grants import SWARM_SERVICE
from gateway.docker.plan import AttachmentState
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.snapshot import Container


def gateway_swarm_task_state(
    builder: PlanBuilder, own: Container, name: str
) -> tuple[AttachmentState, AttachmentObstacle | None, str]:
    """Return the state of the gateway's own attachment to a network, the obstacle (or None), and a message.

    The engine does not report the aliases of a task, but a swarm manager reports the aliases of the task's service.
    On a node that is not a manager, the gateway does not check the aliases.

    Args:
        builder: The plan so far.
        own: The gateway's container, which is a task of a swarm service.
        name: The network's name.
    """
    names = builder.gateway_aliases(name)
    endpoint = own.endpoints.get(name)
    if endpoint is None:
        message = (
            f"the gateway is a swarm task, which cannot join a network: add network {name} to its service, with the"
            f" aliases {', '.join(names)}"
        )
        return AttachmentState.BLOCKED, AttachmentObstacle.SWARM_TASK, message
    called = own.labels.get(SWARM_SERVICE, "")
    service = next((each for each in builder.observed.services if each.name == called), None)
    if service is not None:
        has = {called.lower(), *(each.lower() for each in service.networks.get(endpoint.network_id, ()))}
        lacking = [each for each in names if each.lower() not in has]
        if lacking:
            message = (
                f"service {called} lacks the aliases {', '.join(lacking)} on network {name}: add them to the service"
            )
            return AttachmentState.DRIFTED, None, message
    return AttachmentState.ATTACHED, None, ""
