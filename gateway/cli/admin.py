"""The commands that tell a running service something, by its admin socket."""

from urllib.parse import quote

import click

from gateway.cli.client_options import socket_option
from gateway.cli.output import say
from gateway.errors import GatewayError, UsageError
from gateway.ops.client import Client


def _tell(admin_socket: str, path: str) -> None:
    code, body = Client(None, admin_socket).post(path)
    if code == 422:
        raise UsageError(f"nothing was changed:\n{body['detail']}")
    if code != 200:
        raise GatewayError(body["detail"])
    say(body["detail"])


def _service(name: str, text: str) -> click.Command:
    @click.command(name, help=text)
    @socket_option
    def command(admin_socket: str) -> None:
        _tell(admin_socket, f"/-/{name}")

    return command


def _part(name: str, what: str, text: str) -> click.Command:
    @click.command(name, help=text)
    @click.argument("part", metavar="NAME")
    @socket_option
    def command(part: str, admin_socket: str) -> None:
        _tell(admin_socket, f"/-/{what}/{quote(part, safe='')}/{name}")

    return command


reload = _service("reload", "Read the configuration again and apply what changed.")
drain = _service("drain", "Say not ready, so that load balancers look away; keep serving.")
undrain = _service("undrain", "Say ready again.")
shutdown = _service("shutdown", "Drain and stop the service; a second time, at once.")
pause = _part("pause", "backends", "Stop the checks of backend NAME, as during its maintenance; clients go on.")
resume = _part(
    "resume",
    "backends",
    "Check backend NAME again; of one that was not paused, take a changed export as it is now.",
)
reconnect = _part("reconnect", "tunnels", "Open tunnel NAME anew.")


@click.command()
@click.argument("name")
@click.option("--undo", is_flag=True, help="Hold clients again.")
@socket_option
def fail(name: str, undo: bool, admin_socket: str) -> None:
    """Reset the clients of backend NAME rather than hold them while its path is down: an error now, and no hang."""
    _tell(admin_socket, f"/-/backends/{quote(name, safe='')}/{'hold' if undo else 'fail'}")
