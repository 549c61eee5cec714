"""The gateway's own address on each network, and what endangers it."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace

from gateway.docker.addresses import choose, protected
from gateway.docker.model import RUNNING, Container, EndpointInfo, NetworkInfo, Observed
from gateway.docker.plan import OWNER_ALIAS, Action, Desired, Standing, Verb
from gateway.docker.planning.draft import Draft

_NETWORK_ID = re.compile("[0-9a-f]{64}")
_FIX = 'docs/docker.md, "The gateway\'s address", says how to give the network one'


def own_addresses(draft: Draft, name: str) -> tuple[str, ...]:
    """Return the addresses that the gateway's container is to have on a network; of the others the engine chooses.

    Args:
        draft: The plan in the making.
        name: The network's; one that this engine does not see yet is known by what the gateway had on it before.
    """
    desired, options = draft.desired, draft.options.networks[name]
    claimed, refused = desired.claimed.get(name, ()), desired.refused.get(name, frozenset())
    network = draft.known.get(name) or draft.creatable.get(name)
    if network is not None:
        return choose(network, desired.instance, options.address, claimed, refused)
    if options.address is not None:
        return (str(options.address),)
    return tuple(each for each in claimed if each not in refused)


def lasting_addresses(desired: Desired, observed: Observed) -> dict[str, tuple[str, ...]]:
    """Return the addresses, by network, at which the gateway attached itself, and that no other container gets."""
    own = observed.own_container
    networks = {each.name: each for each in observed.networks}
    found = {}
    for name, endpoint in own.endpoints.items() if own is not None else ():
        if name in networks and desired.mark in (endpoint.aliases or ()):
            lasting = tuple(each for each in endpoint.addresses if protected(networks[name], each))
            found.update({name: lasting} if lasting else {})
    return found


def other_address(draft: Draft, name: str, endpoint: EndpointInfo) -> str:
    """Say why the gateway's endpoint is to have another address than it has; empty: it is as it should be."""
    network, fixed = draft.known.get(name), draft.options.networks[name].address
    if network is None or not endpoint.addresses:
        return ""
    if fixed is not None and str(fixed) not in endpoint.addresses:
        return f"its address is {', '.join(endpoint.addresses)} instead of {fixed}"
    versions = {":" in each for each in own_addresses(draft, name)}
    loose = [each for each in endpoint.addresses if each != str(fixed) and not protected(network, each)]
    loose = [each for each in loose if (":" in each) in versions]
    return f"the engine may give its address {', '.join(loose)} to another container" if loose else ""


def is_bound_to_removed_network(draft: Draft, container: Container) -> bool:
    """Return whether the network mode of a container is the ID of a network that does not exist any more.

    Compose 2.26 writes such IDs for external networks. The engine cannot start the container, whatever it is attached
    to.
    """
    mode = container.network_mode
    return bool(_NETWORK_ID.fullmatch(mode)) and all(each.id != mode for each in draft.observed.networks)


def without_network(draft: Draft, container: Container, name: str, *, ours: bool) -> str:
    """Say what happens to a stopped container whose network was removed, as by `docker network prune`.

    Args:
        draft: The plan in the making.
        container: Which.
        name: The network's.
        ours: Whether the gateway attached it, and so does it again.
    """
    message = "it was attached to a network of that name that is gone, and cannot start"
    if is_bound_to_removed_network(draft, container):
        return f"{message}: recreate it (with Compose: docker compose up -d --force-recreate)"
    if ours:
        return f"{message} until the gateway attaches it again"
    return f"{message}: {reconnecting(draft, container, name)}, or recreate it"


def reconnecting(draft: Draft, container: Container, name: str) -> str:
    """Return the commands that attach a stopped container to the present network of a name, with its aliases."""
    who, network = container.name, f"{draft.observed.flavour.command} network"
    known = {container.id[:12], container.name, *container.given_names}
    aliases = (container.endpoints[name].aliases or frozenset()) - known
    options = "".join(f"--alias {shlex.quote(each)} " for each in sorted(aliases))
    return f"{network} disconnect {name} {who} && {network} connect {options}{name} {who}"


def reattach_stopped_gateway(draft: Draft) -> None:
    """Let `gateway apply` repair the gateway's stopped container, whose network is gone: it cannot start."""
    if draft.observed.own is not None:
        return
    for container in draft.observed.containers:
        for name, endpoint in container.endpoints.items():
            ours = draft.desired.mark in endpoint.names and draft.desired.is_gateway(container)
            there = draft.known.get(name)
            missing = there is None and name in draft.creatable
            stale = there is not None and endpoint.network_id not in ("", there.id)
            if not ours or container.state in RUNNING or not (missing or stale):
                continue
            message = (
                f"it is the gateway's, its network is gone, and it cannot start: {draft.observed.flavour.command}"
                f" network disconnect {name} {container.name}, or gateway apply"
            )
            draft.report_container(container, name, Standing.DRIFTED, None, message)
            if there is not None:
                again = (*draft.own_names(name), draft.desired.mark)
                draft.actions.append(
                    Action(
                        Verb.REATTACH, name, there.id, container.name, container.id, again, "its network is gone",
                        addresses=own_addresses(draft, name),
                    )
                )  # fmt: skip


def address_warnings(draft: Draft) -> Iterator[str]:
    """Yield a line for each network on which the gateway's address may change, or become another container's."""
    own = draft.observed.own_container
    for name, options in draft.options.networks.items():
        network = draft.known.get(name)
        if network is None or own is None or own.is_task:  # the engine gives no service a fixed address
            continue
        yield from _taken(draft, own, name)
        endpoint = own.endpoints.get(name)
        if options.address is not None:
            if not protected(network, str(options.address)):
                yield (
                    f"network {name}: the engine may give {options.address}, the gateway's address, to another"
                    f" container while the gateway is stopped: {_outside(network)}"
                )
        elif not network.ip_ranges:
            yield (
                f"network {name} has no --ip-range: the gateway's address may change when its container is recreated,"
                f" and another container may get the one that clients remember: {_FIX}"
            )
        elif endpoint is not None and draft.desired.mark not in (endpoint.aliases or ()):
            loose = [each for each in endpoint.addresses if not protected(network, each)]
            if loose:
                yield (
                    f"network {name}: the gateway's container was attached by other means, at {', '.join(loose)},"
                    f" which the engine may give to another container: {_outside(network)}, or leave the attachment"
                    " to the gateway"
                )


def _taken(draft: Draft, own: Container, name: str) -> Iterator[str]:
    """Yield a line for each container with an address that the gateway asked for, and did not get."""
    for container in draft.observed.containers:
        endpoint = container.endpoints.get(name)
        if endpoint is None or container.id == own.id:
            continue
        got = sorted(draft.desired.refused.get(name, frozenset()).intersection(endpoint.addresses))
        # Gateways give way to each other: that one had it first.
        if got and not any(each.startswith(OWNER_ALIAS) for each in endpoint.aliases or ()):
            yield (
                f"network {name}: container {container.name} has {', '.join(got)}, for which the gateway asked:"
                " clients that remember it as the gateway's address reach that container: give it another address"
            )


def as_running_gateway(desired: Desired, observed: Observed) -> Observed:
    """Return `observed` from the view of the running gateway, if a command such as `apply` runs elsewhere.

    A command runs on the host or in a temporary container, which must not be attached in place of the gateway's.
    `docker.container` takes precedence.
    """
    own = observed.own_container
    if desired.options.container is not None or (own is not None and desired.is_gateway(own)):
        return observed
    running = [each for each in observed.containers if each.state in RUNNING and desired.is_gateway(each)]
    return replace(observed, own=running[0].id) if len(running) == 1 else observed


def namesakes(draft: Draft) -> Iterator[str]:
    """Yield a line for each other gateway of the same name: each would repair and remove what the other one made."""
    own = draft.observed.own
    for container in draft.observed.containers:
        others = own is not None and container.id != own and container.state in RUNNING
        if others and draft.desired.is_gateway(container):
            yield (
                f"container {container.name} is a gateway of the same name, {draft.desired.instance}, and answers to"
                " the same backends: give each its own gateway.instance, or remove one of them"
            )


def _outside(network: NetworkInfo) -> str:
    if not network.ip_ranges:
        return f"it has no --ip-range; {_FIX}"
    return f"choose one of {', '.join(network.subnets)} outside of {', '.join(network.ip_ranges)}"
