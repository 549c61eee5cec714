"""Defines the options that select a running service, such as `--url`, for the commands that connect to a service."""

import difflib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from gateway.cli.config_selection_options import SETTINGS
from gateway.cli.terminal_output import print_text
from gateway.ops.ops_api_client import OpsApiClient

_Command = TypeVar("_Command", bound=Callable[..., Any])

_PREFIX = "GATEWAY_"
_VARIABLES = (
    "OPS_ADMIN_SOCKET",
    "OPS_LISTEN",
    "OPS_PROBE_LISTEN",
    "OPS_TOKEN_FILE",
    "OPS_CA_FILE",
    "OPS_TLS_CERT_FILE",
)
"""Names of the environment variables that select a service. The names omit the prefix `GATEWAY_`."""
_SIMILAR = 0.8


def _warn_of_misspelled_variables(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Warn about environment variables that look like misspelled names of `_VARIABLES`. This is a Click callback.

    A misspelled name is not an error, because a configuration file can refer to variables with any name.
    """
    del parameter
    known = {*_VARIABLES, *(name.replace("-", "_").upper() for name in SETTINGS)}
    for variable in () if context.resilient_parsing else sorted(os.environ):
        name = variable.removeprefix(_PREFIX)
        close = difflib.get_close_matches(name, _VARIABLES, n=1, cutoff=_SIMILAR)
        if variable != name and name not in known and close:
            print_text(f"warning: {variable} is not used; did you mean {_PREFIX}{close[0]}?", fg="yellow", err=True)
    return value


def _configured_socket() -> str | None:
    """Return `ops.admin_socket` from the file that GATEWAY_CONFIG names; None if the file or key does not exist."""
    file = Path(os.environ.get("GATEWAY_CONFIG", ""))
    try:
        if not file.is_file() or "admin_socket" not in (text := file.read_text(encoding="utf-8")):
            return None
    except (OSError, UnicodeDecodeError):
        return None
    from gateway.config.parsed_tree import ParsedMapping, ParsedScalar  # noqa: PLC0415 - slow to import
    from gateway.config.yaml_parser import parse_yaml  # noqa: PLC0415 - slow to import

    _, ops = parse_yaml(file, text, [], os.environ, {}).entries.get("ops", ("", None))
    _, socket = ops.entries.get("admin_socket", ("", None)) if isinstance(ops, ParsedMapping) else ("", None)
    return socket.text if isinstance(socket, ParsedScalar) else None


def admin_socket_option(command: _Command) -> _Command:
    """Add the option `--admin-socket` to a command. The command function receives it as `admin_socket`.

    Use this option for commands that control the service, because only the admin socket accepts such commands.
    """
    return click.option(
        "--admin-socket",
        envvar="GATEWAY_OPS_ADMIN_SOCKET",
        metavar="PATH",
        default=_configured_socket,
        callback=_warn_of_misspelled_variables,
        help="Admin socket of the service. Default: that of this user's service. [env: GATEWAY_OPS_ADMIN_SOCKET]",
    )(command)


def service_options(command: _Command) -> _Command:
    """Add the options that select the service (admin socket or URL) to a command that only reads the service's state.

    The command function receives an `OpsApiClient` as `client`.
    """

    @functools.wraps(command)
    def with_client(
        *args: Any,
        url: str | None,
        admin_socket: str | None,
        token_file: str | None,
        ca_file: str | None,
        **more: Any,
    ) -> Any:
        return command(*args, client=OpsApiClient(url, admin_socket, token_file, ca_file), **more)

    found: Any = with_client
    for name, variable, text in (
        ("--ca-file", "GATEWAY_OPS_CA_FILE", "Certificate authorities for an https:// URL, in PEM"),
        ("--token-file", "GATEWAY_OPS_TOKEN_FILE", "File with the bearer token for --url"),
    ):
        found = click.option(name, envvar=variable, metavar="FILE", help=f"{text}. [env: {variable}]")(found)
    found = click.option("--url", metavar="URL", help="HTTP address of the service, instead of the admin socket.")(
        found
    )
    return cast("_Command", admin_socket_option(found))
