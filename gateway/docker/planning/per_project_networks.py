"""Replaces each configured network that has `per: project` with its per-project networks. Does no I/O."""

from dataclasses import replace

from gateway.docker.desired_state import DesiredState
from gateway.docker.per_project_network_names import configured_as
from gateway.docker.planning.desired_networks import attachable_networks
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.planning.swarm_service_updates import service_networks
from gateway.docker.snapshot import EngineSnapshot


def expand_projects(desired: DesiredState, observed: EngineSnapshot) -> DesiredState:
    """Return `desired`, with its `per: project` networks replaced by per-project networks.

    The result contains the per-project networks that a container or service requests, and those to which a container
    of this engine is attached.

    Args:
        desired: The desired state, as configured.
        observed: The observed state.
    """
    configured = desired.options.networks
    if all(options.per is None for options in configured.values()):
        return desired
    builder = PlanBuilder(desired, observed, frozenset())
    names: set[str] = set()
    for container in observed.containers:
        if container.id != observed.own:
            names.update(container.endpoints, attachable_networks(builder, container))
    if desired.options.services and observed.swarm.leader:
        for service in observed.services:
            names.update(service_networks(builder, service))
    networks = {name: options for name, options in configured.items() if options.per is None}
    for name in sorted(names - configured.keys()):
        of = configured_as(configured, name)
        if of is not None:
            networks[name] = configured[of]
    return replace(desired, options=replace(desired.options, networks=networks), configured=configured)
