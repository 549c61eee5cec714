"""Defines the network settings of a VPN device: addresses, routes, name servers and MTU."""

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address

from gateway.contracts.config_types import IpAddress

IpInterface = IPv4Interface | IPv6Interface
_IPV6_MIN_MTU = 1280


@dataclass(frozen=True)
class DeviceSettings:
    """The network settings of one VPN device: addresses, routes, name servers and MTU.

    Args:
        addresses: Addresses of the device, with their prefix lengths.
        gateways: Next hops of the default routes of an Ethernet device (`tap`); empty for other devices.
        peers: Addresses behind the VPN that probably reply to ICMP echo requests.
        name_servers: DNS servers to query through the device.
        search_domains: Domains to append to a host name that has no dot or does not resolve.
        mtu: Size of the largest packet, in bytes; None to keep the MTU of the device.
    """

    addresses: tuple[IpInterface, ...]
    gateways: tuple[IpAddress, ...] = ()
    peers: tuple[IpAddress, ...] = ()
    name_servers: tuple[IpAddress, ...] = ()
    search_domains: tuple[str, ...] = ()
    mtu: int | None = None

    @property
    def usable_addresses(self) -> tuple[IpInterface, ...]:
        """The addresses, without IPv6 addresses if the MTU is less than 1280 bytes (RFC 8200, section 5)."""
        allows_ipv6 = (self.mtu or _IPV6_MIN_MTU) >= _IPV6_MIN_MTU
        return tuple(each for each in self.addresses if each.version == 4 or allows_ipv6)


def parse_addresses(texts: tuple[str, ...]) -> tuple[IpAddress, ...]:
    """Parse IP addresses.

    Args:
        texts: The addresses, without prefix lengths.

    Raises:
        ValueError: One of the strings is not an IP address.
    """
    return tuple(ip_address(text) for text in texts)


def likely_peers(addresses: tuple[IpInterface, ...]) -> tuple[IpAddress, ...]:
    """Return the first host address of each subnet of a VPN device.

    This address usually belongs to the VPN server. Skip subnets of at most two addresses, and subnets whose first
    host address is the device's own.

    Args:
        addresses: The addresses of the device, with prefix lengths.
    """
    networks = [(each.network, each.ip) for each in addresses if each.network.num_addresses > 2]
    return tuple(network[1] for network, own in networks if network[1] != own)
