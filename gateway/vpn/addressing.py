"""What a VPN gives its device: addresses, name servers, a packet size. Plain data."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
_IPV6 = 1280


@dataclass(frozen=True)
class Addressing:
    """How a device is to be set up.

    Args:
        addresses: Its own, with their networks.
        gateways: Next hops by which the rest is reached, where the device is an Ethernet one.
        peers: Addresses at the far side that probably answer an echo request.
        servers: Name servers to ask through it.
        domains: Appended to names that have no dot, or are not found.
        mtu: Largest packet in bytes; None: as the device has it.
    """

    addresses: tuple[Interface, ...]
    gateways: tuple[Address, ...] = ()
    peers: tuple[Address, ...] = ()
    servers: tuple[Address, ...] = ()
    domains: tuple[str, ...] = ()
    mtu: int | None = None

    @property
    def carried(self) -> tuple[Interface, ...]:
        """Those addresses whose packets fit: IPv6 needs 1280 bytes (RFC 8200, section 5)."""
        return tuple(each for each in self.addresses if each.version == 4 or (self.mtu or _IPV6) >= _IPV6)

    @staticmethod
    def servers_of(texts: tuple[str, ...]) -> tuple[Address, ...]:
        """Name servers as they are written."""
        return tuple(ip_address(text) for text in texts)


def probable_peers(addresses: tuple[Interface, ...]) -> tuple[Address, ...]:
    """The first address of each of our networks, which is the other end's more often than not."""
    networks = [(each.network, each.ip) for each in addresses if each.network.num_addresses > 2]
    return tuple(network[1] for network, own in networks if network[1] != own)
