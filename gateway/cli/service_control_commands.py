"""Defines the commands that control a running service over its admin socket."""

import click

from gateway.cli.completion import complete_backends, complete_tunnels
from gateway.cli.service_connection_options import admin_socket_option
from gateway.cli.terminal_output import print_text
from gateway.errors import GatewayError, UsageError
from gateway.ops.ops_api_client import OpsApiClient, quote_name


def _post(admin_socket: str | None, path: str) -> None:
    code, detail = OpsApiClient(None, admin_socket).post(path)
    if code == 422:
        raise UsageError(f"the service rejected the new configuration, and keeps the previous one:\n{detail}")
    if code != 200:
        raise GatewayError(detail)
    print_text(detail, keep_lines=True)


def _post_named(admin_socket: str | None, collection: str, name: str, command: str) -> None:
    if not name:
        raise UsageError("NAME is empty: write the name of a backend or tunnel")
    _post(admin_socket, f"/-/{collection}/{quote_name(name)}/{command}")


def _service_command(name: str, text: str) -> click.Command:
    @click.command(name, help=text)
    @admin_socket_option
    def command(admin_socket: str | None) -> None:
        _post(admin_socket, f"/-/{name}")

    return command


def _named_command(name: str, collection: str, text: str) -> click.Command:
    """Return a subcommand of `gateway` that controls one backend or tunnel of the service.

    Args:
        name: The name of the command.
        collection: `backends` if the command controls a backend, `tunnels` if it controls a tunnel.
        text: The help text.
    """
    complete = complete_tunnels if collection == "tunnels" else complete_backends

    @click.command(name, help=text)
    @click.argument("member", metavar="NAME", shell_complete=complete)
    @admin_socket_option
    def command(member: str, admin_socket: str | None) -> None:
        _post_named(admin_socket, collection, member, name)

    return command


reload = _service_command(
    "reload",
    "Read the configuration again and apply the changes.\n\nIf the configuration is not valid, nothing changes.",
)
drain = _service_command(
    "drain",
    "Report the service as not ready, and continue to serve clients.\n\n"
    "Load balancers then send new clients to other gateways.",
)
undrain = _service_command("undrain", "Report the service as ready again.")
shutdown = _service_command(
    "shutdown", "Drain and stop the service.\n\nIf you run the command again, the service stops immediately."
)
pause = _named_command(
    "pause", "backends", "Stop the checks of backend NAME.\n\nUse it during maintenance. Clients can still connect."
)
resume = _named_command(
    "resume",
    "backends",
    "Resume the checks of backend NAME.\n\n"
    "If the checks are not paused, this command restarts them. After the restart, the checks accept the file system"
    " that an NFS server exports now.",
)
reconnect = _named_command(
    "reconnect",
    "tunnels",
    "Close and reopen tunnel NAME.\n\nIf the tunnel is not open, the gateway tries to open it immediately.",
)


@click.command()
@click.argument("name", shell_complete=complete_backends)
@click.option("--undo", is_flag=True, help="Let clients wait again.")
@admin_socket_option
def fail(name: str, undo: bool, admin_socket: str | None) -> None:
    """Reset the connections of clients that wait for backend NAME.

    Also resets new connections while the backend cannot be reached. By default, new clients wait.
    """
    _post_named(admin_socket, "backends", name, "hold" if undo else "fail")
