"""Tests whether help pages fit a terminal, and whether showing a help page imports slow modules."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gateway import __version__
from gateway._dataplane import is_built
from gateway.cli import cli

HEAVY = ("asyncssh", "aiohttp", "prometheus_client", "psycopg", "pymysql", "yaml", "structlog", "asyncio")
LINES, COLUMNS = 48, 80


def commands(command: click.Command = cli, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the names of each command and group, such as `("render", "env")`."""
    yield names
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*names, name))


@pytest.mark.parametrize("names", list(commands()), ids=" ".join)
def test_a_help_page_fits_a_terminal(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    done = CliRunner().invoke(cli, [*names, "--help"])
    lines = done.output.splitlines()
    assert done.exit_code == 0
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    assert not [line for line in lines if line.endswith("...") and "Usage" not in line]  # Click cuts long texts.


def test_a_full_disk_is_reported_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "gateway", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "gateway: cannot write the output: No space left on device: free disk space\n"


def in_new_interpreter(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the gateway in a new interpreter. In other tests, earlier imports can hide a missing import."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments], env={**os.environ, **variables}, capture_output=True,
        timeout=60, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command",
    ["fleet", "status", "explain a", "wait --max 0s", "healthcheck", "reload", "drain", "undrain", "pause a",
     "resume a", "reconnect a", "fail a", "shutdown"],
)  # fmt: skip
def test_a_command_imports_what_it_uses(command: str) -> None:
    done = in_new_interpreter(*command.split(), "--admin-socket", "/nonexistent/admin.sock")
    assert done.returncode == 3
    assert done.stderr.startswith("gateway: cannot connect to a gateway at /nonexistent/admin.sock")


def test_apply_imports_what_it_uses(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(
        "docker: {host: 'unix:///nonexistent/docker.sock'}\n"
        "backends: {orders: {kind: tcp, targets: ['127.0.0.1:1']}}\n"
    )
    done = in_new_interpreter("apply", "-c", str(config))
    assert done.returncode == 1
    assert "/nonexistent/docker.sock" in done.stderr


def test_completion_imports_what_it_uses(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("backends: {orders: {kind: tcp, targets: ['127.0.0.1:1']}}\n")
    done = in_new_interpreter(
        _GATEWAY_COMPLETE="bash_complete", COMP_WORDS="gateway pause o", COMP_CWORD="2",
        GATEWAY_OPS_ADMIN_SOCKET="/nonexistent/admin.sock", GATEWAY_CONFIG=str(config),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "plain,orders\n")


def test_the_version_names_the_data_plane() -> None:
    version, plane = CliRunner().invoke(cli, ["--version"]).output.splitlines()
    assert version == f"gateway, version {__version__}"
    assert plane.startswith("native data plane in C, OpenSSL 3" if is_built() else "data plane of asyncssh")


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, gateway.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout.strip() == "[]"
