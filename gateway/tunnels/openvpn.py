"""Defines `kind: openvpn`: runs the OpenVPN client as a child process, and monitors the connection."""

import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from gateway.certificate_validity import pem_validities
from gateway.contracts.certificate import MonitoredCertificate
from gateway.contracts.link import Link
from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import TunnelOpenResult, TunnelStateCallback
from gateway.errors import GatewayError, TunnelError
from gateway.tunnels import TunnelKind
from gateway.vpn.link import VpnLink
from gateway.vpn.liveness_monitor import LivenessMonitor
from gateway.vpn.openvpn_client import OpenVpnClient
from gateway.vpn.openvpn_file_loader import load_client_file, named_files
from gateway.vpn.openvpn_remotes import tcp_remotes, udp_remotes
from gateway.vpn.options import OpenVpnOptions, read_path
from gateway.vpn.vpn_link_background_tasks import background_tasks

_CERTIFICATES = {"ca", "cert", "extra-certs"}


class OpenVpnTunnel:
    """An OpenVPN tunnel; implements `gateway.contracts.tunnel.Tunnel`.

    Args:
        options: The options of the tunnel.
    """

    def __init__(self, options: OpenVpnOptions) -> None:
        self._options = options

    @property
    def far_side(self) -> str:
        """The path of the configuration file, which identifies the tunnel in messages."""
        return str(self._options.config)

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: TunnelStateCallback) -> AsyncIterator[TunnelOpenResult]:
        """Start OpenVPN, wait until it is connected, and monitor it; see `gateway.contracts.tunnel.Tunnel`."""
        options = self._options
        progress(TunnelState.CONNECTING)
        async with AsyncExitStack() as stack:
            client = await OpenVpnClient.start(options, via, stack)
            await client.connect(progress)
            link = VpnLink(client.isolation, via.network.behind(self.far_side), options.silence.thresholds)
            stack.callback(link.close)
            await client.configure(link)
            monitor = LivenessMonitor(link, progress, client.received, client.restart_in_place)
            async with background_tasks(link, monitor.run(), client.follow_states(link, monitor)):
                yield TunnelOpenResult(link, link.status, client.renew)


def _verify(options: OpenVpnOptions) -> None:
    file = load_client_file(options)
    if (options.user is None) != (options.password is None):
        raise GatewayError("user and password_file must be set together: set both, or neither")
    if file.requires_login and options.user is None:
        raise GatewayError(f"config: {options.config} has auth-user-pass without a file: set user and password_file")


def _credentials(options: OpenVpnOptions) -> list[MonitoredCertificate]:
    try:
        file = load_client_file(options)
    except TunnelError:
        return []
    return [
        MonitoredCertificate("vpn", f"{options.config}: {each.name}", validity)
        for each in file.directives
        if each.name in _CERTIFICATES and each.block is not None
        for validity in pem_validities("\n".join(each.block).encode())
    ]


def _import_file(name: str, text: str) -> dict[str, str] | None:
    """Return the configuration keys for an OpenVPN client file. Implements `TunnelKind.import_file`."""
    is_client = name.endswith((".ovpn", ".conf")) and re.search(r"(?m)^\s*(client|remote)\b", text)
    return {"config": name} if is_client else None


KIND = TunnelKind(
    "openvpn",
    OpenVpnOptions,
    OpenVpnTunnel,
    schemes=("openvpn",),
    servers=lambda options: tcp_remotes(load_client_file(options)),
    udp_servers=lambda options: udp_remotes(load_client_file(options)),
    encrypts=True,
    needs_capabilities=True,
    verify=_verify,
    credentials=_credentials,
    read_url=read_path,
    identity=lambda options: options.config,
    files=named_files,
    import_file=_import_file,
    keys_in_container={"isolation": "device"},  # the container's network namespace already isolates the VPN
)
