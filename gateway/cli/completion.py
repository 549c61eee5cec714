"""`gateway completion`: prints completion scripts for shells, and completes the names of backends and tunnels."""

import os
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from gateway.errors import GatewayError, UsageError
from gateway.ops.ops_api_client import OpsApiClient

_TIMEOUT = 1.0
"""Maximum number of seconds to wait for a response of the running service."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a completion script for a shell.

    The script completes commands, options, files, and the names of backends and tunnels. The names come from the
    configuration file on the command line. If there is none, they come from the running service. If the service does
    not respond, they come from the file that GATEWAY_CONFIG names.

    To use the script in bash: `source <(gateway completion bash)`
    """
    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"{shell} is not supported: use bash, zsh or fish")
    root = context.find_root()
    click.echo(found(root.command, {}, "gateway", "_GATEWAY_COMPLETE").source())


def complete_backends(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the backends whose names begin with `incomplete`. Implements `shell_complete` of a Click parameter."""
    return _complete(context, parameter, incomplete, "backends")


def complete_tunnels(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the tunnels whose names begin with `incomplete`. Implements `shell_complete` of a Click parameter."""
    return _complete(context, parameter, incomplete, "tunnels")


def _complete(
    context: click.Context, parameter: click.Parameter, incomplete: str, section: str
) -> list[CompletionItem]:
    given = context.params.get(parameter.name or "") or ()
    names = _names(context.params, section)
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete) and name not in given]


def _names(parameters: dict[str, Any], section: str) -> list[str]:
    """Return the names in the section `backends` or `tunnels`.

    If no source of names is available, return an empty list, because shell completion must not print errors.
    """
    if parameters.get("file") is not None:
        return _configured(parameters["file"], section)
    client = OpsApiClient(
        parameters.get("url"),
        parameters.get("admin_socket"),
        parameters.get("token_file"),
        parameters.get("ca_file"),
        timeout=_TIMEOUT,
    )
    try:
        return list(client.get_json("/api/v1/status")[1][section])
    except (GatewayError, KeyError):
        file = os.environ.get("GATEWAY_CONFIG")
        return _configured(Path(file), section) if file else []


def _configured(file: Path, section: str) -> list[str]:
    """Return the names in a section of a configuration file, even if other sections have errors."""
    from gateway.config.yaml_parser import parse_yaml, read_text  # noqa: PLC0415 - slow to import

    text, _ = read_text(file, [])
    entry = parse_yaml(file, text, [], {}, {}).entries.get(section)
    return list(getattr(entry[1], "entries", ())) if entry else []
