"""`gateway init`: writes a first configuration, from flags or from the user's answers to questions."""

import os
from pathlib import Path
from typing import Any

import click

from gateway.cli.terminal_output import print_text
from gateway.errors import ConfigError, UsageError

_HEAD = "# Written by `gateway init`. docs/reference.md explains all keys.\n"


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default="gateway.yaml")
@click.option("--tunnel", "tunnels", multiple=True, metavar="NAME=URL", help="A tunnel: bastion=ssh://user@host?…")
@click.option("--backend", "backends", multiple=True, metavar="NAME=URL", help="A backend: orders=mysql://db?via=…")
def init(file: Path, tunnels: tuple[str, ...], backends: tuple[str, ...]) -> None:
    """Write a first configuration to FILE.

    FILE is gateway.yaml by default. An existing file is never overwritten. With --backend, the command asks no
    questions. Otherwise, it asks for a tunnel and for the backends that the tunnel leads to.
    """
    from gateway.cli.init_answers import create_file  # noqa: PLC0415 - slow to import
    from gateway.cli.init_questions import ask_config  # noqa: PLC0415 - slow to import
    from gateway.config.initial_config import from_urls, problems_of, supports_authorized_keys, to_yaml  # noqa: PLC0415 - slow to import

    try:
        exists = file.exists()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}: choose another file") from error
    if exists:
        raise UsageError(f"{file} exists: edit it, or name another file (gateway init FILE)")
    if not os.access(file.parent, os.W_OK | os.X_OK):  # report this error before asking the user questions
        raise UsageError(f"cannot create a file in {file.parent}: choose a file in another directory")
    config: dict[str, Any] = from_urls(tunnels, backends) if backends else ask_config(tunnels)
    problems = problems_of(config)
    if problems:
        raise ConfigError(problems)
    try:
        create_file(file, _HEAD + to_yaml(config), 0o666)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}: choose another file") from error
    print_text(f"wrote {file}")
    steps = [*(["render authorized-keys"] if supports_authorized_keys(config) else []), "check", "run"]
    for step in steps:
        print_text(f"next: gateway {step} -c {file}")
