"""Plans which networks to create and remove."""

import ipaddress
from collections.abc import Iterable
from typing import Any

from gateway.contracts.config_types import IpNetwork
from gateway.docker import labels
from gateway.docker.options import NetworkOptions
from gateway.docker.own_address_selection import range_for_others
from gateway.docker.per_project_network_names import PROJECT_BITS
from gateway.docker.plan import ActionKind, PlannedAction
from gateway.docker.planning.network_differences import differing
from gateway.docker.planning.plan_builder import PlanBuilder
from gateway.docker.snapshot import ENCRYPTED, MTU, NetworkInfo

_POOL = ipaddress.ip_network("10.201.0.0/16")
_SUBNET_BITS = 22
_WIDE = 20


def create_networks(builder: PlanBuilder) -> None:
    """Plan the creation of each missing configured network. Warn about networks that differ from their options."""
    for name, options in builder.options.networks.items():
        _network(builder, name, options)


def remove_networks(builder: PlanBuilder) -> None:
    """Plan the removal of networks that the gateway created, and that are neither configured nor used.

    The engine refuses the removal if a container has joined the network in the meantime.
    """
    # Compare names, too: a container that was never started has no network ID, only the name of its network.
    used = {each.network_id for container in builder.observed.containers for each in container.endpoints.values()}
    used |= {name for container in builder.observed.containers for name in container.endpoints}
    used |= {network_id for service in builder.observed.services for network_id in service.networks}
    for network in builder.observed.networks:
        wanted = network.name in builder.options.networks
        here = network.scope == "local" or builder.observed.swarm.leader
        if builder.is_ours(network.labels) and not wanted and here and not used & {network.id, network.name}:
            builder.actions.append(
                PlannedAction(ActionKind.REMOVE_NETWORK, network.name, network.id, why="no longer configured")
            )


def choose_subnet(subnets: Iterable[str], pool: IpNetwork = _POOL, bits: int = _SUBNET_BITS) -> str | None:
    """Return the first free subnet for a new network; None if no subnet is free.

    Args:
        subnets: The subnets in use.
        pool: The range from which the new subnet is taken.
        bits: The prefix length of the new subnet.
    """
    size = 1 << (pool.max_prefixlen - bits)
    first = int(pool.network_address)
    for start, end in sorted(
        (int(each.network_address), int(each.broadcast_address))
        for each in (ipaddress.ip_network(subnet, strict=False) for subnet in subnets)
        if each.version == pool.version
    ):
        if start >= first + size:
            break
        if end >= first:
            first = (end // size + 1) * size
    return str(type(pool)((first, bits))) if first + size - 1 <= int(pool.broadcast_address) else None


def _subnet(builder: PlanBuilder, options: NetworkOptions) -> tuple[str | None, str]:
    """Return the subnet of a new network (None if no subnet is free), and the searched range, for a message."""
    if options.per is None:
        subnet = str(options.subnet) if options.subnet else choose_subnet(builder.subnets)
        return subnet, f"/{_SUBNET_BITS} of {_POOL}"
    pool = options.subnet or _POOL
    bits = PROJECT_BITS[pool.version]
    return choose_subnet(builder.subnets, pool, bits), f"/{bits} of {pool}"


def _network(builder: PlanBuilder, name: str, options: NetworkOptions) -> None:
    driver = builder.driver(options)
    there = builder.known.get(name)
    wide = options.subnet is not None and options.subnet.version == 4 and options.subnet.prefixlen < _WIDE
    if wide and options.per is None:
        builder.warnings.append(
            f"network {name}: {options.subnet} is larger than a /{_WIDE}, which makes overlays slow"
        )
    if there is not None:
        builder.warnings += differing(builder, options, there)
        return
    if driver == "overlay" and not builder.observed.flavor.has_swarm:
        builder.warnings.append(no_overlay(builder, name))
        return
    if not options.create or (driver == "overlay" and not builder.observed.swarm.leader):
        return
    subnet, ranges = _subnet(builder, options)
    if subnet is None:
        fix = f"set docker.networks.{builder.desired.configured_name(name)}.subnet to a"
        builder.no_free_range[name] = f"every {ranges} is in use: {fix} {'larger' if options.per else 'free'} range"
        builder.warnings.append(f"network {name}: {builder.no_free_range[name]}")
        return
    builder.subnets.append(subnet)
    pools = _pools(builder, options, subnet)
    builder.creatable[name] = NetworkInfo(
        "", name, driver, "", options.attachable, subnets=tuple(each["Subnet"] for each in pools),
        ip_ranges=tuple(each["IPRange"] for each in pools if "IPRange" in each),
    )  # fmt: skip
    builder.actions.append(
        PlannedAction(
            ActionKind.CREATE_NETWORK, name, why="it is missing", body=_spec(builder, name, options, driver, pools)
        )
    )


def no_overlay(builder: PlanBuilder, name: str) -> str:
    """Return a message that says why the network cannot be an overlay on this engine, and what to do."""
    engine = builder.observed.flavor.name
    return f"network {name}: {engine} has no overlay networks: set its driver to bridge, or use Docker in a swarm"


def _pools(builder: PlanBuilder, options: NetworkOptions, subnet: str) -> list[dict[str, str]]:
    """Return the subnets of a new network, each with its `--ip-range`. An IPv6 network also gets an IPv4 subnet."""
    subnets = [subnet]
    if ":" in subnet and (free := choose_subnet(builder.subnets)) is not None:
        subnets.append(free)
        builder.subnets.append(free)
    pools = []
    for each in map(ipaddress.ip_network, subnets):
        inner = options.ip_range if options.ip_range and options.ip_range[0] in each else range_for_others(each)
        pools.append({"Subnet": str(each), **({"IPRange": str(inner)} if inner else {})})
    return pools


def _spec(
    builder: PlanBuilder, name: str, options: NetworkOptions, driver: str, pools: list[dict[str, str]]
) -> dict[str, Any]:
    driver_options = {}
    if options.mtu is not None:
        driver_options[MTU] = str(options.mtu)
    if options.encrypted and driver == "overlay":
        driver_options[ENCRYPTED] = ""
    return {
        "Name": name,
        "Driver": driver,
        "Attachable": options.attachable and driver == "overlay",
        "Internal": options.internal,
        "EnableIPv6": ":" in pools[0]["Subnet"],
        "IPAM": {"Config": pools},
        "Options": driver_options,
        "Labels": {
            builder.label(labels.MANAGED_BY): "gateway",
            builder.label(labels.INSTANCE): builder.desired.instance,
        },
    }
