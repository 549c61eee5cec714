"""Why a container cannot be attached to a network."""

from gateway.docker.model import Container
from gateway.docker.planning.draft import Draft
from gateway.docker.planning.networks import no_overlay
from gateway.docker.trouble import Blocked

_USER_MODE = {"pasta", "slirp4netns"}
"""Network modes of Podman without root, where pasta is the default."""


def hindrance(draft: Draft, container: Container, name: str) -> tuple[Blocked | None, str]:
    """Return why a container cannot be attached to a network; None: it can."""
    blocked, message = of_container(container)
    return (blocked, message) if blocked is not None else _of_network(draft, name)


def of_container(container: Container) -> tuple[Blocked | None, str]:
    """Return why a container cannot be attached to any network; None: it can."""
    mode = container.network_mode
    if mode == "host":
        return Blocked.HOST_NETWORK, "it uses the host's network: it reaches listeners at the host's addresses"
    if mode == "none":
        return Blocked.NO_NETWORK, "it was created with --network none"
    if mode in _USER_MODE:
        message = f"it uses {mode}, with which Podman joins no network: create it with --network bridge"
        return Blocked.NOT_ATTACHABLE, message
    if container.is_task:
        return Blocked.SWARM_TASK, "it belongs to a service: set the labels on the service, and set docker.services"
    return None, ""


def _of_network(draft: Draft, name: str) -> tuple[Blocked | None, str]:
    network = draft.known.get(name)
    options = draft.desired.network(name)
    overlay = network.driver == "overlay" if network else draft.driver(options) == "overlay"
    if network is not None and overlay and not network.attachable:
        return Blocked.NOT_ATTACHABLE, f"network {name} admits services only: create it again with --attachable"
    if name in draft.without_range:
        return Blocked.IP_EXHAUSTED, draft.without_range[name]
    if network is None and name not in draft.creatable:
        swarm = draft.observed.swarm
        if overlay and not draft.observed.flavour.has_swarm:
            return Blocked.NOT_MANAGER, no_overlay(draft, name)
        if overlay and not swarm.member:
            return Blocked.NOT_MANAGER, f"network {name} is an overlay, and this engine is in no swarm"
        if not overlay or swarm.leader:
            return Blocked.UNKNOWN_NETWORK, f"network {name} does not exist, and docker.networks.NAME.create is false"
    return None, ""
