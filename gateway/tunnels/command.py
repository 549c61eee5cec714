"""Defines `kind: command` for programs that connect to targets, such as cloud command-line tools."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from gateway.command_tunnel.link import CommandLink
from gateway.command_tunnel.options import CommandTunnelOptions
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import TunnelOpenResult, TunnelStateCallback
from gateway.errors import FailureReason, GatewayError, TunnelError
from gateway.facts import FactDefinition, hidden
from gateway.processes.child_environment import unset_variables
from gateway.processes.permission_checked_program import insecure_program, resolve_program
from gateway.processes.tunnel_processes import TunnelProcesses
from gateway.tunnels import TunnelKind

PROCESSES = FactDefinition("processes", "Running processes of a command tunnel.", describe=hidden, additive=True)
_VIA = "the program opens its own connections, which cannot go through another tunnel: remove via"


class CommandTunnel:
    """A tunnel in which a program connects to the targets; implements `gateway.contracts.tunnel.Tunnel`.

    Args:
        options: The options of the tunnel.
    """

    def __init__(self, options: CommandTunnelOptions) -> None:
        self._options = options
        self._targets: list[HostPort] = []
        """The targets that were recently dialed through the previous link. The tunnel opens again only if at least
        one of these targets works."""

    @property
    def far_side(self) -> str:
        """The name of the program, which identifies the tunnel in messages."""
        return Path(self._options.command[0]).name

    @contextlib.asynccontextmanager
    async def open(self, via: Link, progress: TunnelStateCallback) -> AsyncIterator[TunnelOpenResult]:
        """Open the tunnel; see `gateway.contracts.tunnel.Tunnel`. The link starts a process when it dials a target.

        When the tunnel opens again, the link also starts processes for the targets that were recently dialed through
        the previous link. At least one of these targets must work.
        """
        if not via.network.is_local:
            raise TunnelError(FailureReason.PROTOCOL, _VIA, fatal=True)
        progress(TunnelState.CONNECTING)
        async with TunnelProcesses() as children:
            link = CommandLink(self._options, via.network, children, progress)
            async with link.running(self._targets):
                try:
                    # There is no `renew` callback, because each new process reads its credentials itself.
                    yield TunnelOpenResult(link, link.status)
                finally:
                    self._targets = link.recent_targets() or self._targets


def _verify(options: CommandTunnelOptions) -> None:
    try:
        resolve_program(options.command)
    except GatewayError as error:
        raise GatewayError(f"command: {error}") from error


def _read_url(scheme: str, authority: str) -> dict[str, str]:
    """Check that a URL contains only a query. Return an empty dictionary, because the caller parses the query.

    Raises:
        ValueError: The URL contains a host or a path.
    """
    del scheme
    if authority:
        raise ValueError(
            "the URL must contain a query, but no host and no path: command://?mode=port&command=PROGRAM,ARGUMENT"
        )
    return {}


KIND = TunnelKind(
    "command",
    CommandTunnelOptions,
    CommandTunnel,
    schemes=("command",),
    servers=lambda _: (),
    facts=(PROCESSES,),
    insecure_settings=lambda options, _: insecure_program("command", options.command),
    advice=lambda options: unset_variables("environment", options.environment),
    verify=_verify,
    read_url=_read_url,
    refuses_via=lambda _: _VIA,
    remedies={
        FailureReason.TIMEOUT: "read the output of the program in the gateway's log, or raise start_timeout",
        FailureReason.RESET: "read the output of the program in the gateway's log; the gateway starts it again",
        FailureReason.AUTH: "renew the login of the program on this host",
        FailureReason.PERMISSION: "stop the other process that listens on the port",
        FailureReason.PROTOCOL: "remove via",
    },
)
