"""`gateway import`: configurations from existing setups."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.importing.result import ImportResult

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group("import")
def import_() -> None:
    """Convert an existing setup to a configuration.

    Prints notes about what to check or complete to standard error.
    """


@import_.command("ssh")
@click.argument("command", metavar="'ssh -L …'")
def ssh_command(command: str) -> None:
    """Convert an `ssh -L` command, given as one argument."""
    from gateway.importing import ssh  # noqa: PLC0415 - slow to import

    _print_import(ssh.import_command, command)


@import_.command("ssh-config")
@click.argument("file", type=_FILE)
def ssh_config(file: Path) -> None:
    """Convert the hosts with a LocalForward in an ssh_config file."""
    from gateway.importing import ssh  # noqa: PLC0415 - slow to import

    _print_import(ssh.import_config, _text(file))


@import_.command("compose")
@click.argument("file", type=_FILE)
def compose_file(file: Path) -> None:
    """Convert ssh services and volumes of a Compose file."""
    from gateway.importing import compose  # noqa: PLC0415 - slow to import

    _print_import(compose.import_compose, _text(file))


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: {error}") from error


def _print_import(read: "Callable[[str, ImportResult], None]", text: str) -> None:
    from gateway.importing.result import ImportResult  # noqa: PLC0415 - slow to import

    result = ImportResult()
    read(text, result)
    click.echo(result.to_yaml().rstrip())
    for note in result.notes:
        click.secho(f"# {note}", err=True, fg="yellow")
