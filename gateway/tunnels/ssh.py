"""Defines `kind: ssh` for SSH servers that forward TCP connections (RFC 4254, section 7.2)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from gateway._dataplane import is_built
from gateway.contracts.insecure_setting import InsecureSetting
from gateway.contracts.link import Link
from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import TunnelOpenResult, TunnelStateCallback
from gateway.errors import DialError, FailureReason, GatewayError, TunnelError
from gateway.facts import FactDefinition, hidden
from gateway.processes.child_environment import unset_variables
from gateway.processes.output_log import OutputLog
from gateway.processes.permission_checked_program import insecure_program, resolve_program
from gateway.processes.tunnel_processes import TunnelProcesses
from gateway.relay.sockets import cap_retransmit_interval
from gateway.ssh import algorithms, credentials, host_keys
from gateway.ssh.authorized_keys_lines import render_authorized_keys
from gateway.ssh.connection_opener import connect
from gateway.ssh.handshake_limiter import handshake_limiter
from gateway.ssh.options import SshOptions
from gateway.ssh.pool import SshConnectionPool
from gateway.ssh.pooled_connection import PooledConnection
from gateway.ssh.proxy_command import connect_through_program
from gateway.tunnels import TunnelKind

CONNECTIONS = FactDefinition("connections", "Open SSH connections.", describe=hidden, additive=True)
CHANNELS = FactDefinition("channels", "Open channels.", describe=hidden, additive=True)
DATA_PLANE = FactDefinition(
    "data_plane",
    "Data plane that carries the channels of an SSH tunnel: native (in C) or asyncssh.",
    metric="gateway_data_plane_info",
    label="plane",
    describe=lambda name: f"data plane {name}",
)
_VIA_AND_PROGRAM = (
    "proxy_command opens its own connection, which cannot go through another tunnel: remove via or proxy_command"
)


class SshTunnel:
    """A tunnel through an SSH server; implements `gateway.contracts.tunnel.Tunnel`.

    Args:
        options: The tunnel's options.
    """

    def __init__(self, options: SshOptions) -> None:
        self._options = options
        self._memory = host_keys.RememberedHostKeyType()
        self._output = OutputLog(Path(options.proxy_command[0]).name if options.proxy_command else "")

    @property
    def far_side(self) -> str:
        """The SSH server as `user@host:port`."""
        return f"{self._options.user}@{self._options.endpoint}"

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: TunnelStateCallback) -> AsyncIterator[TunnelOpenResult]:
        """Open the tunnel, and maintain its pool of connections; see `gateway.contracts.tunnel.Tunnel`."""
        async with (
            TunnelProcesses() if self._options.proxy_command is not None else contextlib.nullcontext() as children
        ):
            if children is not None and not via.network.is_local:
                raise TunnelError(FailureReason.PROTOCOL, _VIA_AND_PROGRAM, fatal=True)
            first = await self._connect(via, children, progress)
            link = SshConnectionPool(
                self._options,
                via.network.behind(self.far_side),
                lambda: self._connect(via, children, _ignore_progress),
                progress,
            )
            async with link.running(first):
                yield TunnelOpenResult(link, link.status, link.renew)

    async def _connect(
        self, via: Link, children: TunnelProcesses | None, progress: TunnelStateCallback
    ) -> PooledConnection:
        options = self._options
        progress(TunnelState.CONNECTING)
        async with handshake_limiter().slot(options.endpoint, via.network):
            if children is None:
                conn = await connect(options, lambda: self._dial(via), progress, self._memory)
            else:
                conn = await connect_through_program(options, children, self._output, progress, self._memory)
            return PooledConnection(conn, options)

    async def _dial(self, via: Link) -> socket.socket:
        options = self._options
        try:
            async with asyncio.timeout(options.connect_timeout):
                sock = await via.socket(options.endpoint)
        except TimeoutError as error:
            raise TunnelError(
                FailureReason.TIMEOUT,
                f"{options.endpoint}: no connection within {options.connect_timeout:g} s (connect_timeout):"
                " check the address, the port and firewalls",
            ) from error
        except DialError as error:
            raise TunnelError(error.reason, error.detail) from error
        cap_retransmit_interval(sock, options.keepalive.lost)
        return sock


def _ignore_progress(state: TunnelState, reason: FailureReason | None = None, detail: str = "") -> None:
    """Ignore the states of an additional connection in the pool, because they are not the state of the tunnel."""
    del state, reason, detail


def _verify(options: SshOptions) -> None:
    """Check the data plane, the program in `proxy_command`, the credentials and the trusted host keys.

    Raises:
        GatewayError: An option or a file cannot be used.
    """
    if options.data_plane == "native" and not is_built():
        raise GatewayError(
            "data_plane: the native engine is not built: install gcc, libssl-dev and python3-dev, then"
            " reinstall the gateway; or set data_plane: auto"
        )
    if options.proxy_command is not None:
        try:
            resolve_program(options.proxy_command)
        except GatewayError as error:
            raise GatewayError(f"proxy_command: {error}") from error
    credentials.load_keys(options)
    host_keys.load_trusted_host_keys(options)


def _insecure_settings(options: SshOptions, plain: bool) -> Iterator[InsecureSetting]:
    del plain  # SSH encrypts the traffic on every path
    if options.insecure_host_key:
        message = (
            "disables host key verification, so an attacker on the network path can read and change all traffic: set"
            " known_hosts or host_keys"
        )
        yield InsecureSetting("insecure_host_key", message, advised=True)
    yield from insecure_program("proxy_command", options.proxy_command or ())
    for key, defaults in algorithms.DEFAULTS.items():
        weak = [each for each in getattr(options, key) if each not in defaults]
        if weak:
            message = f"lists {', '.join(weak)}, which is not among the defaults: remove it, and update the server"
            yield InsecureSetting(key, message, advised=False)


KIND = TunnelKind(
    "ssh",
    SshOptions,
    SshTunnel,
    schemes=("ssh",),
    servers=lambda options: (options.endpoint,),
    refuses_via=lambda options: None if options.proxy_command is None else _VIA_AND_PROGRAM,
    server_dials_targets=True,
    encrypts=True,
    facts=(CONNECTIONS, CHANNELS, DATA_PLANE),
    init_keys=("port", ("identity_files", "agent", "password"), "known_hosts"),
    render_authorized_keys=render_authorized_keys,
    insecure_settings=_insecure_settings,
    advice=lambda options: unset_variables("environment", options.environment),
    verify=_verify,
    credentials=credentials.certificates,
    renewed=credentials.certificate_files,
    uses_native_engine=lambda options: options.data_plane != "asyncssh",
)
