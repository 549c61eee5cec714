"""Defines the configuration keys of OpenVPN and WireGuard tunnels."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.contracts.security import Secret
from gateway.contracts.values import POSITIVE, Duration
from gateway.vpn.liveness import SilenceThresholds

Isolation = Literal["namespace", "device"]


@dataclass(frozen=True)
class SilenceTimeouts:
    """Times without an expected reply after which the gateway takes each action.

    Args:
        suspect: New clients wait. Two seconds later, the VPN starts to reconnect in place.
        down: The gateway reports the tunnel as down.
        lost: The gateway resets existing clients.
        restart: The gateway replaces the child process and the device.
    """

    suspect: Duration = field(default=Duration(5.0), metadata=POSITIVE)
    down: Duration = field(default=Duration(22.0), metadata=POSITIVE)
    lost: Duration = field(default=Duration(60.0), metadata=POSITIVE)
    restart: Duration = field(default=Duration(300.0), metadata=POSITIVE)

    def __post_init__(self) -> None:
        if not self.suspect < self.down <= self.lost <= self.restart:
            raise ValueError("needs suspect < down <= lost <= restart: change one of them")

    @property
    def thresholds(self) -> SilenceThresholds:
        """The durations in the form that the liveness monitor uses."""
        return SilenceThresholds(self.suspect, self.suspect + 2, self.down, self.lost, self.restart)


@dataclass(frozen=True)
class VpnOptions:
    """The options that OpenVPN and WireGuard share.

    Args:
        config: The client's configuration file, as the VPN's operator provides it.
        isolation: `namespace`: a network namespace for the VPN, so that the host's routes and name resolution do not
            change (requires CAP_SYS_ADMIN and CAP_NET_ADMIN). `device`: the host's network namespace, with sockets
            that are bound to the device and a routing table that only they use (requires CAP_NET_ADMIN).
        dns: Name servers behind the VPN, instead of those that the server pushes or the file names.
        mtu: Largest packet in bytes, if the default of the VPN is too large for the path.
        connect_timeout: Time after which the first connection counts as failed, and the tunnel reports the cause. The
            attempts continue.
        silence: How the gateway reacts to an unresponsive VPN.
    """

    config: Path
    isolation: Isolation = "namespace"
    dns: tuple[str, ...] = ()
    mtu: int | None = field(default=None, metadata={"least": 576, "most": 65535})
    connect_timeout: Duration = field(default=Duration(20.0), metadata=POSITIVE)
    silence: SilenceTimeouts = field(default_factory=SilenceTimeouts)

    def __post_init__(self) -> None:
        for each in self.dns:
            try:
                ipaddress.ip_address(each)
            except ValueError as error:
                raise ValueError(f"dns: {each!r} is not an IP address: write one, such as 10.8.0.1") from error


@dataclass(frozen=True)
class OpenVpnOptions(VpnOptions):
    """An OpenVPN tunnel; the `openvpn` program runs as a child process.

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
    """A WireGuard tunnel, with a kernel device or, if the kernel has no WireGuard, `wireguard-go` as a child process.

    Args:
        private_key: The private key, instead of `PrivateKey` in the file.
        preshared_key: The preshared key of the only peer, instead of `PresharedKey` in the file.
    """

    private_key: Secret | None = None
    preshared_key: Secret | None = None


def read_path(scheme: str, rest: str) -> dict[str, str]:
    """Return the options in a URL such as `openvpn:///etc/gateway/office.ovpn`: the path of the configuration file.

    Args:
        scheme: The scheme, which has no meaning here.
        rest: The URL after `scheme://`, without the query.
    """
    del scheme
    return {"config": rest}
