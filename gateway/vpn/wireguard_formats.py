"""Parses WireGuard files (wg-quick(8)), and writes `wg setconf` input. Does no I/O."""

import ipaddress
import re
from dataclasses import dataclass, replace

from gateway.contracts.config_types import HostPort, IpAddress
from gateway.errors import GatewayError
from gateway.vpn.device_settings import IpInterface

_IGNORED = {"table", "saveconfig", "fwmark"}
"""Keys of [Interface] that the gateway ignores: they only control wg-quick or the routing of the host."""
_SCRIPTS = {"preup", "postup", "predown", "postdown"}
_PEER_KEYS = {"publickey", "presharedkey", "allowedips", "endpoint", "persistentkeepalive"}
_VALUES = {
    "address": "a comma-separated list of IP addresses, as in 10.0.0.2/24",
    "allowedips": "a comma-separated list of networks, as in 10.0.0.0/8",
    "mtu": "a number of bytes",
    "listenport": "a port number",
    "persistentkeepalive": "a number of seconds, or off",
}
"""The permitted values of the keys whose parsing can raise a `ValueError`, for error messages."""
_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
_DEFAULT_KEEPALIVE = 25
"""Default interval between keepalives, in seconds. Without keepalives, the gateway cannot distinguish an idle peer
from a peer that has failed."""


@dataclass(frozen=True)
class WireGuardPeer:
    """A peer in a WireGuard file.

    Args:
        public_key: The public key of the peer.
        endpoint: `host:port` from the file; None if the peer connects to the gateway.
        allowed: The networks behind the peer.
        keepalive: Interval between keepalive packets, in seconds.
        preshared_key: The preshared key; None if the peer uses none.
    """

    public_key: str
    endpoint: str | None = None
    allowed: tuple[str, ...] = ()
    keepalive: int = _DEFAULT_KEEPALIVE
    preshared_key: str | None = None


@dataclass(frozen=True)
class WireGuardFile:
    """A parsed WireGuard configuration file.

    Args:
        private_key: The private key of the device; None if the file does not contain it.
        addresses: The addresses of the device.
        name_servers: The name servers behind the VPN.
        search_domains: The search domains.
        mtu: Size of the largest packet, in bytes; None if the file does not set it.
        listen_port: The UDP port of the device; None to let the kernel choose a port.
        peers: The peers.
        ignored: Keys in the file whose values are commands, which the gateway does not run.
    """

    private_key: str | None = None
    addresses: tuple[IpInterface, ...] = ()
    name_servers: tuple[IpAddress, ...] = ()
    search_domains: tuple[str, ...] = ()
    mtu: int | None = None
    listen_port: int | None = None
    peers: tuple[WireGuardPeer, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def endpoints(self) -> list[HostPort]:
        """The endpoints of the peers, before name resolution."""
        found = (peer.endpoint.rpartition(":") for peer in self.peers if peer.endpoint is not None)
        return [HostPort(host.strip("[]"), int(port)) for host, _, port in found]


def parse_wireguard_file(text: str) -> WireGuardFile:
    """Parse a configuration file for wg-quick.

    Args:
        text: The content of the file.

    Raises:
        GatewayError: The file is not valid. The message contains the line number if there is one. It contains no
            value from the file, because any value can be a misplaced secret key.
    """
    file, section = WireGuardFile(), ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.partition("#")[0].strip()
        try:
            if stripped.startswith("["):
                section = stripped.lower()
                file = _start_section(file, section)
            elif stripped:
                file = _set_key(file, section, *stripped.partition("="))
        except GatewayError as error:
            raise GatewayError(f"line {number}: {error}") from None
        except ValueError:  # the message of this error contains the value, which can be a misplaced secret key
            name = stripped.partition("=")[0].strip()
            raise GatewayError(f"line {number}: {name} is not valid: it must be {_VALUES[name.lower()]}") from None
    if not file.addresses:
        raise GatewayError("[Interface] has no Address: add the address that the peer expects")
    if not file.peers or any(not peer.public_key for peer in file.peers):
        raise GatewayError("must have at least one [Peer], and each [Peer] must have a PublicKey: correct the file")
    if not any(peer.endpoint for peer in file.peers):
        raise GatewayError("no [Peer] has an Endpoint: add the address of the server")
    return file


_MAX_PEERS = 1000
"""The maximum number of peers. The parser copies all earlier peers for each [Peer] section, so its time grows with
the square of the number of peers."""


def _start_section(file: WireGuardFile, section: str) -> WireGuardFile:
    if section == "[peer]":
        if len(file.peers) == _MAX_PEERS:
            raise GatewayError(f"the file has more than {_MAX_PEERS} [Peer] sections: remove some")
        return replace(file, peers=(*file.peers, WireGuardPeer("")))
    if section != "[interface]":
        raise GatewayError("unknown section: use [Interface] or [Peer]")
    return file


def _set_key(file: WireGuardFile, section: str, key: str, equals: str, value: str) -> WireGuardFile:
    key, value = key.strip(), value.strip()
    if not equals:
        raise GatewayError("is not of the form KEY = VALUE: correct or remove the line")
    if section == "[interface]":
        return _set_interface_key(file, key, value)
    if section == "[peer]":
        return replace(file, peers=(*file.peers[:-1], _set_peer_key(file.peers[-1], key, value)))
    raise GatewayError("is before the first section: move it below [Interface] or [Peer]")


def _set_interface_key(file: WireGuardFile, key: str, value: str) -> WireGuardFile:
    name = key.lower()
    if name == "privatekey":
        return replace(file, private_key=check_key(value, key))
    if name == "address":
        return replace(file, addresses=(*file.addresses, *map(ipaddress.ip_interface, _split(value))))
    if name == "dns":
        return _add_dns(file, value)
    if name == "mtu":
        return replace(file, mtu=int(value))
    if name == "listenport":
        return replace(file, listen_port=int(value))
    if name in _SCRIPTS:
        return replace(file, ignored=(*file.ignored, key))
    if name in _IGNORED:
        return file
    raise GatewayError(f"unknown key{_printable_key(key)} in [Interface]: correct or remove the line")


def _add_dns(file: WireGuardFile, value: str) -> WireGuardFile:
    for each in _split(value):
        try:
            file = replace(file, name_servers=(*file.name_servers, ipaddress.ip_address(each)))
        except ValueError:
            if not re.fullmatch(r"[\w.-]+", each):
                raise GatewayError("DNS must be a comma-separated list of IP addresses and domains") from None
            file = replace(file, search_domains=(*file.search_domains, each))
    return file


def _set_peer_key(peer: WireGuardPeer, key: str, value: str) -> WireGuardPeer:
    name = key.lower()
    if name not in _PEER_KEYS:
        raise GatewayError(f"unknown key{_printable_key(key)} in [Peer]: correct or remove the line")
    if name == "publickey":
        return replace(peer, public_key=check_key(value, key))
    if name == "presharedkey":
        return replace(peer, preshared_key=check_key(value, key))
    if name == "endpoint":
        if not re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\s:/=+]+):\d{1,5}", value):
            raise GatewayError("Endpoint must be host:port, as in vpn.example.com:51820")
        return replace(peer, endpoint=value)
    if name == "persistentkeepalive":
        return replace(peer, keepalive=_DEFAULT_KEEPALIVE if value == "off" else int(value))
    networks = tuple(str(ipaddress.ip_network(each, strict=False)) for each in _split(value))
    return replace(peer, allowed=(*peer.allowed, *networks))


def check_key(value: str, name: str) -> str:
    """Return `value` if it has the form of a WireGuard key.

    Args:
        value: The string to check.
        name: The configuration key that contains the string, for the error message.

    Raises:
        GatewayError: The string is not a key. The message does not contain the string.
    """
    if not _KEY.fullmatch(value):
        raise GatewayError(f"{name} is not a valid key: copy the key again (44 characters of base64)")
    return value


def _printable_key(name: str) -> str:
    """Return a space and the unknown name of a configuration key, to insert into an error message.

    Return an empty string if `name` does not look like such a name, because it can be part of a misplaced secret key.
    """
    return f" {name}" if re.fullmatch(r"[A-Za-z]{1,24}", name) else ""


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def to_setconf(file: WireGuardFile, endpoints: dict[str, str]) -> str:
    """Convert a configuration file to the input of `wg setconf`.

    Args:
        file: The configuration file.
        endpoints: The resolved `address:port` of each peer that has an endpoint. The dictionary key is the peer's
            public key.
    """
    lines = ["[Interface]", f"PrivateKey = {file.private_key}"]
    if file.listen_port:
        lines.append(f"ListenPort = {file.listen_port}")
    for peer in file.peers:
        lines += ["[Peer]", f"PublicKey = {peer.public_key}", f"PersistentKeepalive = {peer.keepalive}"]
        if peer.preshared_key:
            lines.append(f"PresharedKey = {peer.preshared_key}")
        if peer.allowed:
            lines.append(f"AllowedIPs = {', '.join(peer.allowed)}")
        if peer.public_key in endpoints:
            lines.append(f"Endpoint = {endpoints[peer.public_key]}")
    return "\n".join(lines) + "\n"
