"""Plans the addresses and attachments of the gateway's own container, and warns about address conflicts."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace

from gateway.docker.desired_state import OWNER_ALIAS_PREFIX, DesiredState
from gateway.docker.own_address_selection import choose, is_reserved
from gateway.docker.plan import ActionKind, AttachmentState, PlannedAction
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.planning.unavailable_container_records import safe_command
from gateway.docker.snapshot import RUNNING, Container, EngineSnapshot, NetworkEndpoint, NetworkInfo

_NETWORK_ID = re.compile("[0-9a-f]{64}")
_FIX = 'see docs/docker.md, "The gateway\'s address"'


def own_addresses(builder: PlanBuilder, name: str) -> tuple[str, ...]:
    """Return the addresses to request for the gateway's container on a network.

    The engine chooses an address for each IP version that the result does not contain. For a network that is neither
    on this engine nor in the plan, the result is the configured address, or else the gateway's previous addresses.

    Args:
        builder: The plan so far.
        name: The network's name.
    """
    desired, options = builder.desired, builder.options.networks[name]
    claimed, refused = desired.claimed.get(name, ()), desired.refused.get(name, frozenset())
    network = builder.known.get(name) or builder.creatable.get(name)
    if network is not None:
        return choose(network, desired.instance, options.address, claimed, refused)
    if options.address is not None:
        return (str(options.address),)
    return tuple(each for each in claimed if each not in refused)


def reserved_addresses(desired: DesiredState, observed: EngineSnapshot) -> dict[str, tuple[str, ...]]:
    """Return the gateway's current addresses on each network to which the gateway attached its own container.

    Omit addresses that the engine may assign to another container.
    """
    own = observed.own_container
    networks = {each.name: each for each in observed.networks}
    found = {}
    for name, endpoint in own.endpoints.items() if own is not None else ():
        if name in networks and desired.owner_alias in (endpoint.aliases or ()):
            lasting = tuple(each for each in endpoint.addresses if is_reserved(networks[name], each))
            found.update({name: lasting} if lasting else {})
    return found


def address_change(builder: PlanBuilder, name: str, endpoint: NetworkEndpoint) -> str:
    """Return the reason to change the address of the gateway's endpoint; empty if there is none."""
    network, fixed = builder.known.get(name), builder.options.networks[name].address
    if network is None or not endpoint.addresses:
        return ""
    if fixed is not None and str(fixed) not in endpoint.addresses:
        return f"its address is {', '.join(endpoint.addresses)} instead of {fixed}"
    versions = {":" in each for each in own_addresses(builder, name)}
    loose = [each for each in endpoint.addresses if each != str(fixed) and not is_reserved(network, each)]
    loose = [each for each in loose if (":" in each) in versions]
    return f"the engine may assign the gateway's address {', '.join(loose)} to another container" if loose else ""


def is_bound_to_removed_network(builder: PlanBuilder, container: Container) -> bool:
    """Return whether the network mode of a container is the ID of a removed network.

    The engine can never start such a container. Compose 2.26 uses IDs as network modes for external networks.
    """
    mode = container.network_mode
    return bool(_NETWORK_ID.fullmatch(mode)) and all(each.id != mode for each in builder.observed.networks)


def removed_network_message(builder: PlanBuilder, container: Container, name: str, *, ours: bool) -> str:
    """Return an error message, with a remedy, for a stopped container whose network was removed.

    For example, `docker network prune` removes a network if all its containers are stopped.

    Args:
        builder: The plan so far.
        container: The container.
        name: The network's name.
        ours: Whether the gateway attached the container, and therefore reattaches it.
    """
    message = "its network was removed, and it cannot start"
    if is_bound_to_removed_network(builder, container):
        return f"{message}: recreate it (with Compose: docker compose up -d --force-recreate)"
    if ours:
        return f"{message} until the gateway reattaches it"
    command = reconnect_command(builder, container, name)
    return (
        f"{message}: run `{command}`, or recreate the container" if command else f"{message}: recreate the container"
    )


def reconnect_command(builder: PlanBuilder, container: Container, name: str) -> str:
    """Return the command that moves a stopped container from a removed network to the new network of the same name.

    The command includes the container's aliases. Return an empty string if the command is too long, or if an alias
    contains control characters.
    """
    who, network = container.name, f"{builder.observed.flavor.command} network"
    known = {container.id[:12], container.name, *container.given_names}
    aliases = (container.endpoints[name].aliases or frozenset()) - known
    options = "".join(f"--alias {shlex.quote(each)} " for each in sorted(aliases))
    return safe_command(f"{network} disconnect {name} {who} && {network} connect {options}{name} {who}")


def reattach_stopped_gateway(builder: PlanBuilder) -> None:
    """Plan to reattach the gateway's own container if it is stopped and its network was removed.

    Without this action, the container cannot start. Only commands such as `gateway apply` plan this action, because
    the gateway itself does not run while its container is stopped.
    """
    if builder.observed.own is not None:
        return
    for container in builder.observed.containers:
        for name, endpoint in container.endpoints.items():
            ours = builder.desired.owner_alias in endpoint.names and builder.desired.is_gateway(container)
            there = builder.known.get(name)
            missing = there is None and name in builder.creatable
            stale = there is not None and endpoint.network_id not in ("", there.id)
            if not ours or container.state in RUNNING or not (missing or stale):
                continue
            message = (
                f"its network was removed, and it cannot start: run {builder.observed.flavor.command}"
                f" network disconnect {name} {container.name}, or gateway apply"
            )
            builder.report_container(container, name, AttachmentState.DRIFTED, None, message)
            if there is not None:
                again = (*builder.gateway_aliases(name), builder.desired.owner_alias)
                builder.actions.append(
                    PlannedAction(
                        ActionKind.REATTACH, name, there.id, container.name, container.id, again,
                        "its network was removed",
                        addresses=own_addresses(builder, name),
                    )
                )  # fmt: skip


def address_warnings(builder: PlanBuilder) -> Iterator[str]:
    """Yield warnings about addresses of the gateway that another container has, or that the gateway can lose."""
    own = builder.observed.own_container
    for name, options in builder.options.networks.items():
        network = builder.known.get(name)
        if network is None or own is None or own.is_task:  # the engine chooses the address of a swarm task
            continue
        yield from _taken(builder, own, name)
        endpoint = own.endpoints.get(name)
        if options.address is not None:
            if not is_reserved(network, str(options.address)):
                yield (
                    f"network {name}: the engine may assign {options.address}, the gateway's address, to another"
                    f" container while the gateway is stopped: {_outside(network)}"
                )
        elif not network.ip_ranges:
            yield (
                f"network {name} has no --ip-range: the gateway's address may change when its container is recreated,"
                f" and another container may get the address that clients have cached: {_FIX}"
            )
        elif endpoint is not None and builder.desired.owner_alias not in (endpoint.aliases or ()):
            loose = [each for each in endpoint.addresses if not is_reserved(network, each)]
            if loose:
                yield (
                    f"network {name}: the gateway did not attach its own container, and the engine may assign the"
                    f" container's address {', '.join(loose)} to another container: {_outside(network)}, or let the"
                    " gateway attach its container"
                )


def _taken(builder: PlanBuilder, own: Container, name: str) -> Iterator[str]:
    """Yield a warning for each container that has an address that the gateway requested for its own container."""
    for container in builder.observed.containers:
        endpoint = container.endpoints.get(name)
        if endpoint is None or container.id == own.id:
            continue
        got = sorted(builder.desired.refused.get(name, frozenset()).intersection(endpoint.addresses))
        # Do not warn if the container is another gateway, because it may have requested the address first.
        if got and not any(each.startswith(OWNER_ALIAS_PREFIX) for each in endpoint.aliases or ()):
            yield (
                f"network {name}: container {container.name} has {', '.join(got)}, which the gateway requested:"
                " clients that have cached the gateway's address reach this container: change the container's address"
            )


def as_running_gateway(desired: DesiredState, observed: EngineSnapshot) -> EngineSnapshot:
    """Return the snapshot, with `own` set to the running gateway's container.

    A command such as `gateway apply` can run on the host or in a temporary container. The command must not attach the
    temporary container to networks.

    Return the snapshot unchanged if `own` is already correct (for example, because `docker.container` is set), if no
    gateway container runs, or if several run.
    """
    own = observed.own_container
    if desired.options.container is not None or (own is not None and desired.is_gateway(own)):
        return observed
    running = [each for each in observed.containers if each.state in RUNNING and desired.is_gateway(each)]
    return replace(observed, own=running[0].id) if len(running) == 1 else observed


def duplicate_gateways(builder: PlanBuilder) -> Iterator[str]:
    """Yield a warning for each running container of another gateway that has the same instance name.

    Gateways with the same instance name undo each other's changes.
    """
    own = builder.observed.own
    for container in builder.observed.containers:
        others = own is not None and container.id != own and container.state in RUNNING
        if others and builder.desired.is_gateway(container):
            yield (
                f"container {container.name} is a gateway with the same instance name, {builder.desired.instance},"
                " and has the aliases of the same backends: give each its own gateway.instance, or remove one of them"
            )


def _outside(network: NetworkInfo) -> str:
    if not network.ip_ranges:
        return f"it has no --ip-range: {_FIX}"
    return f"choose an address in {', '.join(network.subnets)} outside {', '.join(network.ip_ranges)}"
