"""`import`: a configuration from what runs today."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gateway.importing.found import Found


@click.group("import")
def import_() -> None:
    """Print a configuration for what you run today; what needs a look goes to stderr."""


@import_.command("ssh")
@click.argument("command", metavar="'ssh -L …'")
def ssh_command(command: str) -> None:
    """Print the configuration that replaces an `ssh -L` command, given as one word."""
    from gateway.importing import found, ssh  # noqa: PLC0415 - slow to import

    result = found.Found()
    ssh.command(command, result)
    _tell(result)


@import_.command("ssh-config")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def ssh_config(file: Path) -> None:
    """Print the configuration that replaces the hosts with a LocalForward in an ssh_config file."""
    from gateway.importing import found, ssh  # noqa: PLC0415 - slow to import

    result = found.Found()
    ssh.config(file.read_text(), result)
    _tell(result)


@import_.command("compose")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def compose_file(file: Path) -> None:
    """Print the configuration that replaces a compose file's ssh services and NFS volumes."""
    from gateway.importing import compose, found  # noqa: PLC0415 - slow to import

    result = found.Found()
    compose.services(file.read_text(), result)
    _tell(result)


def _tell(found: "Found") -> None:
    click.echo(found.text().rstrip())
    for note in found.notes:
        click.secho(f"# {note}", err=True, fg="yellow")
