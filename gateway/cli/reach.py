"""The options that say where the running service is."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gateway.ops.client import DEFAULT_SOCKET

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
    """Either way, for commands that ask."""
    command = click.option("--url", metavar="URL", help="Its HTTP address, instead of the admin socket.")(command)
    return socket_option(command)
