"""Reads the files with test cases for `gateway import`, in `tests/unit/importing/`."""

import re
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from gateway.cli import cli
from gateway.importing.compose_yaml_loader import ComposeYamlLoader, without_tags
from gateway.input_size_limits import load_yaml
from tests.support.files import REPOSITORY

FOLDER = REPOSITORY / "tests" / "unit" / "importing"
CORPUS = sorted(FOLDER.glob("corpus/*.txt"))
DIFFS = sorted(FOLDER.glob("diffs/*.txt"))


def sections(path: Path) -> list[tuple[str, str]]:
    """Return the heading and the body of each section in a file with a test case."""
    parts = re.split(r"(?m)^=== (.*)\n", path.read_text())[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def load_compose(text: str) -> Any:
    """Return the content of a Compose file, without YAML tags."""
    return without_tags(load_yaml(text, ComposeYamlLoader))


def compose_diff(path: Path) -> tuple[str, str, str]:
    """Write the files of a test case to the current directory, and run `gateway import --diff` on these files.

    Returns:
        The name of the Compose file, the diff on stdout, and the notes on stderr.
    """
    arguments, name = [], ""
    for head, body in sections(path):
        if head == "argument":
            arguments.append(body.rstrip("\n"))
        elif head.startswith("file "):
            Path(head[5:]).parent.mkdir(exist_ok=True)
            Path(head[5:]).write_text(body)
            arguments.append(head[5:])
            name = head[5:] if head.endswith((".yaml", ".yml")) else name
    done = CliRunner().invoke(cli, ["import", "--diff", *arguments])
    assert done.exit_code == 0, repr(done.exception)
    return name, done.stdout, done.stderr
