"""Defines the configuration keys of OpenVPN and WireGuard tunnels."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.contracts.config_types import POSITIVE, Duration
from gateway.contracts.secret import Secret
from gateway.vpn.overdue_reply_timer import OverdueReplyThresholds

Isolation = Literal["namespace", "device"]


@dataclass(frozen=True)
class VpnFailureDetectionOptions:
    """Defines how long an expected reply can be missing before the gateway reacts.

    Args:
        suspect: Time after which new clients wait. Two seconds later, the VPN starts to reconnect, with the same
            device.
        down: Time after which the gateway reports the tunnel as down.
        lost: Time after which the gateway resets existing client connections.
        restart: Time after which the gateway replaces the child process and the device.
    """

    suspect: Duration = field(default=Duration(5.0), metadata=POSITIVE)
    down: Duration = field(default=Duration(22.0), metadata=POSITIVE)
    lost: Duration = field(default=Duration(60.0), metadata=POSITIVE)
    restart: Duration = field(default=Duration(300.0), metadata=POSITIVE)

    def __post_init__(self) -> None:
        if not self.suspect < self.down <= self.lost <= self.restart:
            raise ValueError("must satisfy suspect < down <= lost <= restart: change one of them")

    @property
    def thresholds(self) -> OverdueReplyThresholds:
        """The thresholds for `OverdueReplyTimer`, in seconds."""
        return OverdueReplyThresholds(self.suspect, self.suspect + 2, self.down, self.lost, self.restart)


@dataclass(frozen=True)
class VpnOptions:
    """The options that OpenVPN tunnels and WireGuard tunnels have in common.

    Args:
        config: The client's configuration file, as the VPN's operator provides it.
        isolation: `namespace`: a network namespace for the VPN, so that the host's routes and name resolution do not
            change (requires CAP_SYS_ADMIN and CAP_NET_ADMIN). `device`: the host's network namespace. The gateway
            binds its sockets to the VPN's device, and only these sockets use the VPN's routing table (requires
            CAP_NET_ADMIN).
        dns: Name servers behind the VPN, in place of those that the server pushes or that the file contains.
        mtu: Maximum size of a packet, in bytes. Set it if the VPN's default is too large for the network path.
        connect_timeout: If the first connection takes longer than this time, the tunnel reports the cause, and
            continues to try.
        silence: The times after which the gateway reacts to an unresponsive VPN.
    """

    config: Path
    isolation: Isolation = "namespace"
    dns: tuple[str, ...] = ()
    mtu: int | None = field(default=None, metadata={"least": 576, "most": 65535})
    connect_timeout: Duration = field(default=Duration(20.0), metadata=POSITIVE)
    silence: VpnFailureDetectionOptions = field(default_factory=VpnFailureDetectionOptions)

    def __post_init__(self) -> None:
        for each in self.dns:
            try:
                ipaddress.ip_address(each)
            except ValueError as error:
                raise ValueError(f"dns: {each!r} is not an IP address: write one, such as 10.8.0.1") from error


@dataclass(frozen=True)
class OpenVpnOptions(VpnOptions):
    """The options of an OpenVPN tunnel. The `openvpn` program runs as a child process.

    Args:
        user: User name, for servers that require a login.
        password: Password of `user`.
        key_password: Passphrase of an encrypted private key.
    """

    user: str | None = None
    password: Secret | None = None
    key_password: Secret | None = None


@dataclass(frozen=True)
class WireGuardOptions(VpnOptions):
    """The options of a WireGuard tunnel. `wireguard-go` provides the device if the kernel has no WireGuard.

    Args:
        private_key: The private key, instead of `PrivateKey` in the file.
        preshared_key: The preshared key of the only peer, instead of `PresharedKey` in the file.
    """

    private_key: Secret | None = None
    preshared_key: Secret | None = None


def read_path(scheme: str, rest: str) -> dict[str, str]:
    """Return the option `config` with the path from a URL. Example: `openvpn:///etc/gateway/office.ovpn`.

    Args:
        scheme: The scheme. It is not used.
        rest: The part of the URL after `scheme://`, without the query.
    """
    del scheme
    return {"config": rest}
