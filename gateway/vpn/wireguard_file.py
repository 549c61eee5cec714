"""A WireGuard configuration file (wg-quick(8)): what the device gets, and what `wg setconf` does not know. Pure."""

import ipaddress
import re
from dataclasses import dataclass, field, replace

from gateway.errors import GatewayError
from gateway.vpn.addressing import Address, Interface

_IGNORED = {"table", "saveconfig", "fwmark"}
"""Keys of [Interface] that are about the host's routes, which stay as they are."""
_SCRIPTS = {"preup", "postup", "predown", "postdown"}
_PEER = {"publickey", "presharedkey", "allowedips", "endpoint", "persistentkeepalive"}
_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
_KEEPALIVE = 25
"""Seconds, where the file says nothing: a peer with nothing to say is otherwise silent for good (wireguard.com)."""


@dataclass(frozen=True)
class Peer:
    """One peer.

    Args:
        public_key: Its key.
        endpoint: `host:port` as written; None: it connects to us.
        allowed: The networks behind it.
        keepalive: Seconds between packets that keep the path open.
        preshared_key: A further secret.
    """

    public_key: str
    endpoint: str | None = None
    allowed: tuple[str, ...] = ()
    keepalive: int = _KEEPALIVE
    preshared_key: str | None = None


@dataclass(frozen=True)
class DeviceFile:
    """A file as it is read.

    Args:
        private_key: Ours; None: given elsewhere.
        addresses: Of the device.
        servers: Name servers.
        domains: Search domains.
        mtu: Largest packet in bytes.
        listen_port: UDP port; None: any.
        peers: The other ends.
        left_out: Keys that run commands, and are not obeyed.
    """

    private_key: str | None = None
    addresses: tuple[Interface, ...] = ()
    servers: tuple[Address, ...] = ()
    domains: tuple[str, ...] = ()
    mtu: int | None = None
    listen_port: int | None = None
    peers: tuple[Peer, ...] = ()
    left_out: tuple[str, ...] = field(default=())


def read(text: str) -> DeviceFile:
    """Read a file.

    Raises:
        GatewayError: With the line that is wrong.
    """
    device, section = DeviceFile(), ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.partition("#")[0].strip()
        try:
            if stripped.startswith("["):
                section = stripped.lower()
                device = _begin(device, section)
            elif stripped:
                device = _put(device, section, *stripped.partition("="))
        except (GatewayError, ValueError) as error:
            raise GatewayError(f"line {number}: {error}") from None
    if not device.addresses:
        raise GatewayError("[Interface] has no Address: add the one that the peer expects")
    if not device.peers or any(not peer.public_key for peer in device.peers):
        raise GatewayError("needs a [Peer] with a PublicKey")
    if not any(peer.endpoint for peer in device.peers):
        raise GatewayError("no [Peer] has an Endpoint to connect to")
    return device


def _begin(device: DeviceFile, section: str) -> DeviceFile:
    if section == "[peer]":
        return replace(device, peers=(*device.peers, Peer("")))
    if section != "[interface]":
        raise GatewayError("begins an unknown section: there are [Interface] and [Peer]")
    return device


def _put(device: DeviceFile, section: str, key: str, equals: str, value: str) -> DeviceFile:
    key, value = key.strip(), value.strip()
    if not equals:
        raise GatewayError("is no KEY = VALUE")
    if section == "[interface]":
        return _interface(device, key, value)
    if section == "[peer]":
        return replace(device, peers=(*device.peers[:-1], _peer(device.peers[-1], key, value)))
    raise GatewayError("stands before [Interface]")


def _interface(device: DeviceFile, key: str, value: str) -> DeviceFile:
    name = key.lower()
    if name == "privatekey":
        return replace(device, private_key=key_of(value, key))
    if name == "address":
        return replace(device, addresses=(*device.addresses, *map(ipaddress.ip_interface, _list(value))))
    if name == "dns":
        return _dns(device, value)
    if name == "mtu":
        return replace(device, mtu=int(value))
    if name == "listenport":
        return replace(device, listen_port=int(value))
    if name in _SCRIPTS:
        return replace(device, left_out=(*device.left_out, key))
    if name in _IGNORED:
        return device
    raise GatewayError(f"unknown key{_shown(key)} in [Interface]")


def _dns(device: DeviceFile, value: str) -> DeviceFile:
    for each in _list(value):
        try:
            device = replace(device, servers=(*device.servers, ipaddress.ip_address(each)))
        except ValueError:
            if not re.fullmatch(r"[\w.-]+", each):
                raise GatewayError("DNS needs addresses and search domains") from None
            device = replace(device, domains=(*device.domains, each))
    return device


def _peer(peer: Peer, key: str, value: str) -> Peer:
    name = key.lower()
    if name not in _PEER:
        raise GatewayError(f"unknown key{_shown(key)} in [Peer]")
    if name == "publickey":
        return replace(peer, public_key=key_of(value, key))
    if name == "presharedkey":
        return replace(peer, preshared_key=key_of(value, key))
    if name == "endpoint":
        if not re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^\s:/=+]+):\d{1,5}", value):
            raise GatewayError("Endpoint needs host:port")
        return replace(peer, endpoint=value)
    if name == "persistentkeepalive":
        return replace(peer, keepalive=_KEEPALIVE if value == "off" else int(value))
    networks = tuple(str(ipaddress.ip_network(each, strict=False)) for each in _list(value))
    return replace(peer, allowed=(*peer.allowed, *networks))


def key_of(value: str, name: str) -> str:
    """`value`, if it can be a key; else an error that does not show it."""
    if not _KEY.fullmatch(value):
        raise GatewayError(f"{name} is no key: it has 44 characters of base64")
    return value


def _shown(name: str) -> str:
    """An unknown name, unless it may be part of a key that went wrong."""
    return f" {name}" if re.fullmatch(r"[A-Za-z]{1,24}", name) else ""


def _list(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def for_wg(device: DeviceFile, endpoints: dict[str, str]) -> str:
    """What `wg setconf` reads.

    Args:
        device: The file.
        endpoints: `address:port` by public key, looked up.
    """
    lines = ["[Interface]", f"PrivateKey = {device.private_key}"]
    if device.listen_port:
        lines.append(f"ListenPort = {device.listen_port}")
    for peer in device.peers:
        lines += ["[Peer]", f"PublicKey = {peer.public_key}", f"PersistentKeepalive = {peer.keepalive}"]
        if peer.preshared_key:
            lines.append(f"PresharedKey = {peer.preshared_key}")
        if peer.allowed:
            lines.append(f"AllowedIPs = {', '.join(peer.allowed)}")
        if peer.public_key in endpoints:
            lines.append(f"Endpoint = {endpoints[peer.public_key]}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Vital:
    """What `wg show DEVICE dump` says.

    Args:
        handshake: Seconds since the epoch of the last handshake; 0: there was none.
        received: Bytes in all.
        endpoints: Where the peers are now: they may move by themselves.
    """

    handshake: int
    received: int
    endpoints: tuple[str, ...] = ()


def read_dump(text: str) -> Vital:
    """The latest handshake and the bytes of all peers; the first line, which holds our key, is passed over."""
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return Vital(
        handshake=max((int(row[4]) for row in rows), default=0),
        received=sum(int(row[5]) for row in rows),
        endpoints=tuple(row[2] for row in rows if row[2] != "(none)"),
    )
