"""The gateway's own addresses on a network: those that the engine gives to no other container. Pure."""

import hashlib
import ipaddress
from collections.abc import Collection, Iterable, Iterator

from gateway.docker.model import NetworkInfo
from gateway.docker.options import Address, Subnet

_LEAST_BITS = 3
"""Bits for hosts that a subnet must have to be divided."""
_MOST = 1 << 16
"""Addresses of a block that are considered: an IPv6 subnet has too many to try."""


def range_for_others(subnet: Subnet) -> Subnet | None:
    """Give the upper half of a subnet, for `--ip-range`: the engine takes the addresses of containers from there.

    Args:
        subnet: The network's.

    Returns:
        None if the subnet is too small to be divided.
    """
    if subnet.max_prefixlen - subnet.prefixlen < _LEAST_BITS:
        return None
    return ipaddress.ip_network((subnet[subnet.num_addresses // 2], subnet.prefixlen + 1))


def is_reserved(network: NetworkInfo, address: str) -> bool:
    """Tell whether the engine gives this address only to a container that asks for it.

    Args:
        network: Where it is.
        address: An IP address.
    """
    found = ipaddress.ip_address(address)
    return any(found in subnet and found not in inner for subnet, inner in _divided(network))


def choose(
    network: NetworkInfo,
    instance: str,
    fixed: Address | None = None,
    claimed: Collection[str] = (),
    refused: Collection[str] = (),
) -> tuple[str, ...]:
    """Choose the gateway's addresses, one of each divided subnet.

    The choice follows from the gateway's name, so that it is the same without any record, and agents of several nodes
    rarely choose the same one. When they do, the engine refuses the second, which then takes the next address.

    Args:
        network: Where they are.
        instance: The gateway's name.
        fixed: What the configuration says; it stands for the address of its subnet.
        claimed: What the gateway had before, on this network or on one of its name.
        refused: What the engine has refused.

    Returns:
        The addresses; none of a subnet without a range, or without a free address.
    """
    found = [str(fixed)] if fixed is not None else []
    for subnet, inner in _divided(network):
        if fixed is None or fixed.version != subnet.version:
            found += _first(network, subnet, inner, instance, claimed, refused)
    return tuple(found)


def _divided(network: NetworkInfo) -> Iterator[tuple[Subnet, Subnet]]:
    """Give the subnets of which the engine gives away a part only, with that part."""
    # Engines before Docker 25 took a subnet with bits of a host in it, and keep it as it was written.
    inner = [ipaddress.ip_network(each, strict=False) for each in network.ip_ranges]
    for subnet in (ipaddress.ip_network(each, strict=False) for each in network.subnets):
        for each in inner:
            if each.version == subnet.version and each != subnet and each[0] in subnet:
                yield subnet, each


def _first(
    network: NetworkInfo,
    subnet: Subnet,
    inner: Subnet,
    instance: str,
    claimed: Collection[str],
    refused: Collection[str],
) -> list[str]:
    unusable = {*refused, *network.gateways}
    before = (each for each in claimed if each not in unusable and ipaddress.ip_address(each) in subnet)
    kept = next((each for each in before if is_reserved(network, each)), None)
    if kept is not None:
        return [kept]
    return next(([each] for each in _candidates(subnet, inner, instance) if each not in unusable), [])


def _candidates(subnet: Subnet, inner: Subnet, instance: str) -> Iterable[str]:
    """Give the addresses outside of the engine's part, from one on that follows from the gateway's name."""
    # The types of both are the same, see `_divided`.
    blocks: Iterable[Subnet] = subnet.address_exclude(inner)  # type: ignore[arg-type]
    block = max(blocks, key=lambda each: each.num_addresses)
    # The first two and the last may be the subnet's own, the engine's and the broadcast address.
    count = min(block.num_addresses, _MOST) - 3
    first = int.from_bytes(hashlib.sha256(f"{instance} {subnet}".encode()).digest()[:8])
    return (str(block[2 + (first + at) % count]) for at in range(count))
