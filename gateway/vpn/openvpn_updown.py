"""Converts the environment variables of OpenVPN's `up` script, such as pushed options, to device settings."""

import ipaddress
import re
from collections.abc import Mapping

from gateway.contracts.config_types import IpAddress
from gateway.vpn.device_settings import DeviceSettings, IpInterface


def parse_updown(environment: Mapping[str, str], dns: tuple[str, ...], mtu: int | None) -> DeviceSettings:
    """Convert the environment variables from `>UPDOWN:ENV` notifications to device settings.

    Args:
        environment: The environment variables, as openvpn(8) documents them for scripts.
        dns: Name servers to use instead of the pushed ones; empty to use the pushed ones.
        mtu: MTU to use instead of the negotiated one, in bytes; None to use the negotiated one.
    """
    addresses: list[IpInterface] = []
    if local := environment.get("ifconfig_local"):
        mask = environment.get("ifconfig_netmask") or "32"
        addresses.append(ipaddress.IPv4Interface(f"{local}/{mask}"))
    if local := environment.get("ifconfig_ipv6_local"):
        addresses.append(ipaddress.IPv6Interface(f"{local}/{environment.get('ifconfig_ipv6_netbits', '128')}"))
    hops = _valid_addresses(
        environment.get("route_vpn_gateway"), environment.get("ifconfig_remote"),
        environment.get("ifconfig_ipv6_remote"),
    )  # fmt: skip
    options = [
        environment[key].split() for key in sorted(environment, key=_number) if key.startswith("foreign_option_")
    ]
    dhcp = [words[1:] for words in options if len(words) == 3 and words[0] == "dhcp-option"]
    servers = dns or [value for name, value in dhcp if name in ("DNS", "DNS6")]
    return DeviceSettings(
        addresses=tuple(addresses),
        gateways=hops if environment.get("dev_type") == "tap" else (),
        peers=hops,
        name_servers=_valid_addresses(*servers),
        search_domains=tuple(value for name, value in dhcp if name in ("DOMAIN", "DOMAIN-SEARCH")),
        mtu=mtu or (int(environment["tun_mtu"]) if "tun_mtu" in environment else None),
    )


def _valid_addresses(*texts: str | None) -> tuple[IpAddress, ...]:
    """Parse strings as IP addresses. Skip duplicates, and strings that are not addresses."""
    found: list[IpAddress] = []
    for text in texts:
        try:
            address = ipaddress.ip_address(text or "")
        except ValueError:
            continue
        if address not in found:
            found.append(address)
    return tuple(found)


def _number(key: str) -> int:
    """Return the number at the end of a variable name, for sorting; 0 if the name does not end with a number."""
    digits = re.search(r"\d+$", key)
    return int(digits[0]) if digits else 0
