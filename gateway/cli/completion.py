"""`gateway completion`: a script for the shell."""

import click
from click.shell_completion import get_completion_class

from gateway.errors import UsageError


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print shell completion: `source <(gateway completion bash)`."""
    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"no completion for {shell}")
    root = context.find_root()
    click.echo(found(root.command, {}, "gateway", "_GATEWAY_COMPLETE").source())
