"""Chooses the gateway's addresses on a network, outside the range for other containers. Does no I/O."""

import hashlib
import ipaddress
from collections.abc import Collection, Iterable, Iterator

from gateway.contracts.config_types import IpAddress, IpNetwork
from gateway.docker.snapshot import NetworkInfo

_MIN_HOST_BITS = 3
"""The minimum number of host bits (IPv4: 32 minus the prefix length) of a subnet that the gateway divides. Smaller
subnets have too few addresses."""
_MAX_CANDIDATES = 1 << 16
"""The maximum number of addresses to try in one subnet. An IPv6 subnet has too many addresses to try all of them."""


def range_for_others(subnet: IpNetwork) -> IpNetwork | None:
    """Return the upper half of a subnet: the range from which other containers get addresses (`--ip-range`).

    Args:
        subnet: The network's subnet.

    Returns:
        The range; None if the subnet is too small for a separate range.
    """
    if subnet.max_prefixlen - subnet.prefixlen < _MIN_HOST_BITS:
        return None
    return ipaddress.ip_network((subnet[subnet.num_addresses // 2], subnet.prefixlen + 1))


def is_reserved(network: NetworkInfo, address: str) -> bool:
    """Return whether an address is outside the `--ip-range` of a network.

    The engine assigns such an address only on request.

    Args:
        network: The network that the address is on.
        address: An IP address.
    """
    found = ipaddress.ip_address(address)
    return any(found in subnet and found not in inner for subnet, inner in _divided(network))


def choose(
    network: NetworkInfo,
    instance: str,
    fixed: IpAddress | None = None,
    claimed: Collection[str] = (),
    refused: Collection[str] = (),
) -> tuple[str, ...]:
    """Choose the gateway's addresses: in each subnet that has an `--ip-range`, one address outside this range.

    The gateway prefers its previous addresses. Without a previous address, a hash of the gateway's name selects the
    address. A gateway therefore selects the same address each time, and gateways on different swarm nodes rarely
    select the same address. If the engine refuses an address, the gateway tries the next one.

    Args:
        network: The network on which the gateway gets the addresses.
        instance: The gateway's name.
        fixed: The configured address, which the gateway uses instead of a chosen address of the same IP version; None
            if no address is configured.
        claimed: The gateway's previous addresses on this network, or on a removed network of the same name.
        refused: Addresses that the engine refused.

    Returns:
        The configured address, and the chosen addresses. No address is chosen in a subnet that has no `--ip-range`
            or no free address.
    """
    found = [str(fixed)] if fixed is not None else []
    for subnet, inner in _divided(network):
        if fixed is None or fixed.version != subnet.version:
            found += _first(network, subnet, inner, instance, claimed, refused)
    return tuple(found)


def _divided(network: NetworkInfo) -> Iterator[tuple[IpNetwork, IpNetwork]]:
    """Yield each subnet that has an `--ip-range`, together with this range."""
    # `strict=False`: Docker before 25 accepted subnets with host bits set, such as 10.0.0.1/24.
    inner = [ipaddress.ip_network(each, strict=False) for each in network.ip_ranges]
    for subnet in (ipaddress.ip_network(each, strict=False) for each in network.subnets):
        for each in inner:
            if each.version == subnet.version and each != subnet and each[0] in subnet:
                yield subnet, each


def _first(
    network: NetworkInfo,
    subnet: IpNetwork,
    inner: IpNetwork,
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


def _candidates(subnet: IpNetwork, inner: IpNetwork, instance: str) -> Iterable[str]:
    """Return the addresses to try, in order of preference.

    Args:
        subnet: The subnet of the addresses.
        inner: The subnet's `--ip-range`. All returned addresses are outside it.
        instance: The gateway's name. Its hash selects the first address.
    """
    # `subnet` and `inner` have the same IP version, see `_divided`.
    blocks: Iterable[IpNetwork] = subnet.address_exclude(inner)  # type: ignore[arg-type]
    block = max(blocks, key=lambda each: each.num_addresses)
    # Skip the first two addresses and the last one. They can be the network address, the address of the network's
    # default gateway, and the broadcast address.
    count = min(block.num_addresses, _MAX_CANDIDATES) - 3
    first = int.from_bytes(hashlib.sha256(f"{instance} {subnet}".encode()).digest()[:8])
    return (str(block[2 + (first + at) % count]) for at in range(count))
