"""`gateway import`: creates configurations from existing setups."""

import os.path
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.terminal_output import print_text
from gateway.errors import UsageError

if TYPE_CHECKING:
    from gateway.importing.import_result import ImportResult
    from gateway.importing.source_format import ImportSource


@click.command("import")
@click.argument("sources", metavar="[FORM] SOURCE...", nargs=-1, required=True)
@click.option(
    "--diff",
    is_flag=True,
    help="Print a diff of the given Compose file. After the change, its services use the gateway.",
)
def import_(sources: tuple[str, ...], diff: bool) -> None:
    """Convert existing setups to a configuration.

    Prints the configuration. Notes on standard error say what to check or complete.

    A SOURCE is a file, a command line in quotation marks, NAME=VALUE, or - for standard input. It can contain
    commands (`ssh -L`, `docker run`), scripts, ssh_config, Compose files, environment variables, fstab, systemd
    units, and OpenVPN or WireGuard configurations. The command combines sources that belong together: a volume at
    localhost:2049 and a forward of port 2049 result in one backend.

    The command recognizes the format of each SOURCE. To set the format, write one of these FORMs before the SOURCE:
    ssh, ssh-config, compose, docker-run, env or fstab.
    """
    from gateway.importing.config_conversion import convert, note_rest  # noqa: PLC0415 - slow to import

    given = _read(sources)
    result = convert(given)
    text = _diff(given, result) if diff and result.backends else ""
    note_rest(result)
    click.echo(text or result.to_yaml(), nl=False)
    changed = {client.where for client, _ in result.changes if diff and client.in_compose_file}
    changes = [f"{client.where}: {text}" for client, text in result.changes if client.where not in changed]
    for note in (*result.notes, *changes):
        print_text(f"# {note}", "yellow", err=True)
    for path, content in result.files.items() if not diff else ():
        lines = "".join(f"#   {line}\n" for line in content.splitlines())
        print_text(f"# write to {path}:\n{lines.rstrip()}", "yellow", err=True, keep_lines=True)


def _diff(given: "list[ImportSource]", result: "ImportResult") -> str:
    """Return a diff that makes the services of the given Compose file use the gateway.

    Raises:
        UsageError: The sources do not contain exactly one Compose file, or that file is a symbolic link.
    """
    from gateway.importing.compose_diff import compose_diff  # noqa: PLC0415 - slow to import
    from gateway.importing.source_format import recognize  # noqa: PLC0415 - slow to import

    files = [source for source in given if source.name and (source.form or recognize(source)) == "compose"]
    if len(files) != 1:
        raise UsageError(f"--diff needs one Compose file among the sources, not {len(files)}")
    if Path(files[0].name).is_symlink():
        raise UsageError(
            f"{files[0].name} is a symbolic link, and `patch` does not follow symbolic links: replace the link with a"
            " copy of its target"
        )
    return compose_diff(files[0].text, files[0].name, result)


def _read(words: tuple[str, ...]) -> "list[ImportSource]":
    """Read and return the sources to convert.

    Args:
        words: The arguments of the command: sources, and names of formats. A name applies to the next source.

    Raises:
        UsageError: A source cannot be read, or no source follows the name of a format.
    """
    from gateway.importing.source_format import FORMS, ImportSource  # noqa: PLC0415 - slow to import

    found: list[ImportSource] = []
    form = ""
    variables: list[str] = []
    for index, word in enumerate(words, 1):
        if not form and word in FORMS and (index < len(words) or not Path(word).is_file()):
            form = word
            continue
        if not form and re.fullmatch(r"[A-Za-z_]\w*=.*", word, re.DOTALL) and not re.search(r"\s-", word):
            variables.append(word)
            continue
        found.append(_source(word, form))
        form = ""
    if form:
        raise UsageError(f"the source after {form} is missing: add it")
    return [*found, *([ImportSource("", "\n".join(variables), "env")] if variables else [])]


def _source(word: str, form: str) -> "ImportSource":
    from gateway.importing.source_format import ImportSource  # noqa: PLC0415 - slow to import
    from gateway.input_size_limits import read_limited, read_stream  # noqa: PLC0415 - slow to import
    from gateway.secret_redaction import hide_secrets  # noqa: PLC0415 - slow to import

    try:
        if word == "-":
            return ImportSource("", read_stream(sys.stdin.buffer).decode(), form)
        # Path.is_file raises an error for a long name.
        is_command = re.search(r"\s", word) and not os.path.isfile(word)  # noqa: PTH113
        if form == "ssh" or is_command:
            return ImportSource("", word, form)
        return ImportSource(word, read_limited(Path(word)).decode(), form)
    except FileNotFoundError:
        raise UsageError(
            f"{hide_secrets(word)}: file not found: name an existing file, or use a command line in quotation marks,"
            " NAME=VALUE, or -"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text: convert it to UTF-8"
        name = "standard input" if word == "-" else hide_secrets(word)
        raise UsageError(f"{name}: cannot be read: {reason}") from None
