"""Connects to an SSH server through a program (`proxy_command`), like OpenSSH's ProxyCommand (ssh_config(5))."""

import socket

import asyncssh

from gateway.contracts.tunnel import TunnelStateCallback
from gateway.errors import FailureReason, TunnelError
from gateway.processes.child_environment import environment_of_user
from gateway.processes.child_process import exit_error
from gateway.processes.command_template import fill_placeholders
from gateway.processes.output_log import OutputLog
from gateway.processes.stdio_stream import EXIT_DELAY, StdioStream
from gateway.processes.tunnel_processes import TunnelProcesses
from gateway.processes.tunnel_program_lookup import look_up_tunnel_program
from gateway.relay.stream_bridge import StreamBridge
from gateway.ssh.connection_opener import connect
from gateway.ssh.host_keys import RememberedHostKeyType
from gateway.ssh.options import SshOptions


async def connect_through_program(
    options: SshOptions,
    children: TunnelProcesses,
    output: OutputLog,
    progress: TunnelStateCallback,
    memory: RememberedHostKeyType,
) -> asyncssh.SSHClientConnection:
    """Start the program of `proxy_command`, and log in to the server over the program's standard streams.

    Args:
        options: The tunnel's options, with a `proxy_command`.
        children: Owns the child process, which exits when the SSH connection closes.
        output: Logs the program's standard error.
        progress: Called when the login starts.
        memory: Remembers the type of the latest trusted host key. A successful login updates `memory`.

    Raises:
        TunnelError: The program or the login failed; fatal if a retry cannot help.
    """
    streams: list[StdioStream] = []
    command, file = await _command(options)

    async def dial() -> socket.socket:
        environment = environment_of_user(options.environment)
        stream = await StdioStream.start(children, command, file, environment, output.on_line)
        streams.append(stream)
        return StreamBridge(stream, short=True).sock

    try:
        return await connect(options, dial, progress, memory)
    except TunnelError as error:
        # If the program has exited, its exit code explains the failure better than the lost connection.
        if error.reason is FailureReason.RESET and streams and await streams[-1].child.exits_within(EXIT_DELAY):
            raise exit_error(command, streams[-1].child, options.login_exit_codes) from error
        raise


async def _command(options: SshOptions) -> tuple[tuple[str, ...], str]:
    """Fill in the placeholders of the command. Return the command and the path of the file to execute.

    Raises:
        TunnelError: The program does not exist, cannot be executed, or is on a file system that does not respond.
    """
    template = options.proxy_command or ()
    program = await look_up_tunnel_program("proxy_command", template, options.connect_timeout, "connect_timeout")
    values = {"host": options.host, "port": str(options.port), "user": options.user}
    return (program.name, *fill_placeholders(template[1:], values)), program.file
