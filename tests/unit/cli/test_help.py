"""Help fits on a screen, and imports no slow library."""

import subprocess
import sys

import click
from click.testing import CliRunner

from gateway.cli import cli

HEAVY = ("asyncssh", "aiohttp", "prometheus_client", "psycopg", "pymysql", "yaml", "structlog", "asyncio")


def test_every_command_explains_itself_on_one_screen() -> None:
    runner = CliRunner()
    for arguments in ([], *([name] for name in cli.list_commands(click.Context(cli))), ["render", "authorized-keys"]):
        done = runner.invoke(cli, [*arguments, "--help"])
        assert done.exit_code == 0
        assert len(done.output.splitlines()) <= 48
        assert all(len(line) <= 100 for line in done.output.splitlines())


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, gateway.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == "[]"


def test_completion_knows_the_commands() -> None:
    done = CliRunner().invoke(cli, ["completion", "bash"])
    assert done.exit_code == 0
    assert "_GATEWAY_COMPLETE=bash_complete" in done.output
