"""Provides what all connectors of one tunnel share: the options, the processes and the command line.

A connector opens the connections to one target.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.command_tunnel.options import CommandTunnelOptions
from gateway.contracts.config_types import HostPort
from gateway.processes.child_environment import environment_of_user
from gateway.processes.command_template import fill_placeholders
from gateway.processes.output_log import OutputLog
from gateway.processes.tunnel_processes import TunnelProcesses
from gateway.processes.tunnel_program_lookup import look_up_tunnel_program


@dataclass(frozen=True)
class ConnectorContext:
    """The options, child processes and output log that all connectors of one tunnel share.

    Args:
        options: The options of the tunnel.
        children: Owns the child processes.
        output: Logs the output of the program.
        on_change: Called after a process failed or exited.
    """

    options: CommandTunnelOptions
    children: TunnelProcesses
    output: OutputLog
    on_change: Callable[[], None]

    @property
    def name(self) -> str:
        """The name of the program."""
        return Path(self.options.command[0]).name

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the program."""
        return environment_of_user(self.options.environment)

    async def command(self, to: HostPort, local_port: int = 0) -> tuple[tuple[str, ...], str]:
        """Return the command line for a target, and the path of the file to execute.

        Args:
            to: The target.
            local_port: The port on which the program must listen; 0 in mode `stdio`.

        Raises:
            TunnelError: The program cannot be used, for example because another user can change it. The error is
                fatal, except in two cases: the search for the program's file took more than half of `start_timeout`,
                or the search raised `OSError`.
        """
        template = self.options.command
        limit = self.options.start_timeout / 2
        program = await look_up_tunnel_program("command", template, limit, "half of start_timeout")
        values = {"host": to.host, "port": str(to.port), "local_port": str(local_port)}
        return (program.name, *fill_placeholders(template[1:], values)), program.file
