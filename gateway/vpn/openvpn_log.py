"""What OpenVPN says in its log, as reasons; what it pushes, as addresses. Pure."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import Reason
from gateway.vpn.addressing import Address, Addressing


@dataclass(frozen=True)
class Trouble:
    """Why it does not work.

    Args:
        reason: Which of the closed list.
        detail: One line for a person.
        fatal: Whether trying again soon is useless.
        weight: How much it explains: a line of more weight is kept when others follow.
    """

    reason: Reason
    detail: str
    fatal: bool = False
    weight: int = 1


_PHRASES: list[tuple[str, Reason, bool, int]] = [
    (r"Options error: Please correct these errors", Reason.PROTOCOL, True, 1),
    (r"Options error|Unrecognized option", Reason.PROTOCOL, True, 4),
    (r"OPTIONS ERROR: server pushed", Reason.PROTOCOL, True, 4),
    (r"/dev/net/tun|Cannot (open|ioctl|allocate) TUN|TUNSETIFF|TUNSETPERSIST", Reason.PERMISSION, True, 5),
    (r"Cannot load (certificate|private key|CA)|cannot be read|No such file", Reason.PROTOCOL, True, 4),
    (r"private key password verification failed", Reason.AUTH, True, 4),
    (r"AUTH_FAILED|auth-failure", Reason.AUTH, True, 4),
    (r"VERIFY (KU |EKU |X509NAME |SCRIPT )?ERROR", Reason.TLS, True, 4),
    (r"certificate (has )?expired|certificate verify failed", Reason.TLS, True, 3),
    (r"alert (unknown ca|bad certificate|certificate)", Reason.TLS, True, 3),
    (r"tls-crypt unwrap error|HMAC authentication failed|Authenticate/Decrypt packet", Reason.TLS, False, 3),
    (r"RESOLVE: Cannot resolve|Cannot resolve host", Reason.DNS, False, 2),
    (r"Connection refused|[Nn]o route to host|Network is unreachable", Reason.REFUSED, False, 2),
    (r"[Cc]onnection reset", Reason.RESET, False, 2),
    (r"TLS key negotiation failed to occur|[Tt]imed out|[Ss]erver.poll.timeout", Reason.TIMEOUT, False, 2),
    (r"Inactivity timeout|\[soft,ping-restart\]", Reason.TIMEOUT, False, 2),
    (r"TLS (Error|handshake failed|object)", Reason.TLS, False, 1),
]
"""What a line contains, what that means, whether waiting does not help, and how much it explains."""


def trouble_in(line: str) -> Trouble | None:
    """What a line of the log complains about, if it does."""
    if re.match(r"\S*\s*\S*\s*(MANAGEMENT|PUSH|OPTIONS IMPORT|Timers)\b", line):
        return None  # repeats what the management interface says, or only reports
    for phrase, reason, fatal, weight in _PHRASES:
        if re.search(phrase, line):
            return Trouble(reason, re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line.strip()), fatal, weight)
    return None


def graver(old: Trouble | None, new: Trouble) -> Trouble:
    """The one that explains more; the newer of equals."""
    return old if old is not None and old.weight > new.weight else new


def addressing(pushed: Mapping[str, str], dns: tuple[str, ...], mtu: int | None) -> Addressing:
    """What `>UPDOWN:ENV` says.

    Args:
        pushed: The variables, as a script would have them.
        dns: Name servers to use instead of those pushed.
        mtu: The packet size to use instead.
    """
    addresses: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface] = []
    if local := pushed.get("ifconfig_local"):
        mask = pushed.get("ifconfig_netmask") or "32"
        addresses.append(ipaddress.IPv4Interface(f"{local}/{mask}"))
    if local := pushed.get("ifconfig_ipv6_local"):
        addresses.append(ipaddress.IPv6Interface(f"{local}/{pushed.get('ifconfig_ipv6_netbits', '128')}"))
    hops = _addresses(
        pushed.get("route_vpn_gateway"), pushed.get("ifconfig_remote"), pushed.get("ifconfig_ipv6_remote")
    )
    options = [pushed[key].split() for key in sorted(pushed, key=_number) if key.startswith("foreign_option_")]
    named = [words for words in options if len(words) == 3 and words[0] == "dhcp-option"]
    servers = _addresses(*dns) if dns else _addresses(*(each[2] for each in named if each[1] in ("DNS", "DNS6")))
    domains = [each[2] for each in named if each[1] in ("DOMAIN", "DOMAIN-SEARCH")]
    return Addressing(
        addresses=tuple(addresses),
        gateways=hops if pushed.get("dev_type") == "tap" else (),
        peers=hops,
        servers=servers,
        domains=tuple(domains),
        mtu=mtu or (int(pushed["tun_mtu"]) if "tun_mtu" in pushed else None),
    )


def _addresses(*texts: str | None) -> tuple[Address, ...]:
    found: list[Address] = []
    for text in texts:
        try:
            address = ipaddress.ip_address(text or "")
        except ValueError:
            continue
        if address not in found:
            found.append(address)
    return tuple(found)


def _number(key: str) -> int:
    digits = re.search(r"\d+$", key)
    return int(digits[0]) if digits else 0
