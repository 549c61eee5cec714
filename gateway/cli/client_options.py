"""The options that say where the running service is."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from gateway.ops.client import DEFAULT_SOCKET, Client

_Command = TypeVar("_Command", bound=Callable[..., Any])


def socket_option(command: _Command) -> _Command:
    """Its admin socket, for commands that change something."""
    return click.option(
        "--admin-socket",
        envvar="GATEWAY_OPS_ADMIN_SOCKET",
        default=DEFAULT_SOCKET,
        show_default=True,
        metavar="PATH",
        help="The service's admin socket.",
    )(command)


def url_option(command: _Command) -> _Command:
    """Either way, for commands that ask: the command gets a `client`."""

    @functools.wraps(command)
    def asking(
        *args: Any, url: str | None, admin_socket: str, token_file: str | None, ca_file: str | None, **more: Any
    ) -> Any:
        return command(*args, client=Client(url, admin_socket, token_file, ca_file), **more)

    found: Any = asking
    for name, variable, text in (
        ("--ca-file", "GATEWAY_OPS_CA_FILE", "Certificate authorities of an https:// URL, in PEM."),
        ("--token-file", "GATEWAY_OPS_TOKEN_FILE", "A file with the token that its HTTP address asks for."),
    ):
        found = click.option(name, envvar=variable, metavar="FILE", help=f"{text}  [env: {variable}].")(found)
    found = click.option("--url", metavar="URL", help="Its HTTP address, instead of the admin socket.")(found)
    return cast("_Command", socket_option(found))
