"""What a configuration may say about a VPN."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.contracts import POSITIVE, Duration, Secret
from gateway.vpn.liveness import Patience

Isolation = Literal["namespace", "device"]


@dataclass(frozen=True)
class Silence:
    """What becomes of a VPN through which nothing comes any more, although an answer is due.

    Args:
        suspect: New clients wait, and the connection is made anew in place, again and again.
        down: It is called down.
        lost: Its clients are reset.
        restart: The child process is replaced.
    """

    suspect: Duration = field(default=Duration(5.0), metadata=POSITIVE)
    down: Duration = field(default=Duration(22.0), metadata=POSITIVE)
    lost: Duration = field(default=Duration(60.0), metadata=POSITIVE)
    restart: Duration = field(default=Duration(300.0), metadata=POSITIVE)

    def __post_init__(self) -> None:
        if not self.suspect < self.down <= self.lost <= self.restart:
            raise ValueError("needs suspect < down <= lost <= restart")

    @property
    def patience(self) -> Patience:
        """As the watch wants it."""
        return Patience(self.suspect, self.suspect + 2, self.down, self.lost, self.restart)


@dataclass(frozen=True)
class VpnCommon:
    """The keys that OpenVPN and WireGuard share.

    Args:
        config: The client's configuration file, as the VPN's operator gave it.
        isolation: `namespace`: a network namespace of its own, so that the host's routes and names stay as they are
            (needs CAP_SYS_ADMIN and CAP_NET_ADMIN); `device`: the host's namespace, with sockets that are bound to
            the device and a routing table for them alone (needs CAP_NET_ADMIN).
        dns: Name servers behind the VPN, instead of those that it pushes or its file names.
        mtu: Largest packet in bytes, where the VPN's own is too large for the path.
        connect_timeout: For the first connection; attempts go on after that, and the tunnel says why it is not up.
        silence: Detection of a silent VPN.
    """

    config: Path
    isolation: Isolation = "namespace"
    dns: tuple[str, ...] = ()
    mtu: int | None = field(default=None, metadata={"least": 576, "most": 65535})
    connect_timeout: Duration = field(default=Duration(20.0), metadata=POSITIVE)
    silence: Silence = field(default_factory=Silence)

    def __post_init__(self) -> None:
        for each in self.dns:
            try:
                ipaddress.ip_address(each)
            except ValueError as error:
                raise ValueError(f"dns: {each!r} is no IP address") from error


@dataclass(frozen=True)
class OpenVpnOptions(VpnCommon):
    """An OpenVPN server, reached by the `openvpn` program as a child.

    Args:
        user: Login, for servers that ask for one.
        password: For `user`.
        key_password: Opens an encrypted private key.
    """

    user: str | None = None
    password: Secret | None = None
    key_password: Secret | None = None


@dataclass(frozen=True)
class WireGuardOptions(VpnCommon):
    """WireGuard peers, by the kernel's device or else `wireguard-go` as a child.

    Args:
        private_key: Instead of the file's PrivateKey.
        preshared_key: Instead of the file's PresharedKey, for its only peer.
    """

    private_key: Secret | None = None
    preshared_key: Secret | None = None


def read_path(scheme: str, rest: str) -> dict[str, str]:
    """`openvpn:///etc/gateway/office.ovpn`: the path is the configuration file."""
    del scheme
    return {"config": rest}
