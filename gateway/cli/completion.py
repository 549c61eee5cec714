"""`gateway completion`: prints completion scripts for shells."""

import click
from click.shell_completion import get_completion_class

from gateway.errors import UsageError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a completion script for a shell.

    To use it in bash: `source <(gateway completion bash)`
    """
    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"{shell} is not supported: use bash, zsh or fish")
    root = context.find_root()
    click.echo(found(root.command, {}, "gateway", "_GATEWAY_COMPLETE").source())
