"""Tests `gateway fleet` with members that do not answer, and its table."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import cli
from gateway.errors import ServiceUnreachableError


@pytest.mark.parametrize("arguments", [("dns+gateway.invalid:9090",), ("--file", "absent"), ("--file", "empty")])
def test_no_answer_is_an_error(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").touch()
    done = CliRunner().invoke(cli, ["fleet", *arguments])
    assert isinstance(done.exception, ServiceUnreachableError), done.output
