"""Tests `gateway init` with flags and with answers; what it writes passes `gateway validate`."""

from pathlib import Path

import asyncssh
import pytest
from click.testing import CliRunner, Result

from gateway.cli import cli


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a key and a known_hosts file, which is also the home directory."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(tmp_path / "key"))
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "hosts").write_text(f"bastion.example.com {key.export_public_key().decode()}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str, answers: str = "") -> Result:
    return CliRunner().invoke(cli, arguments, input=answers)


def test_flags_replace_all_questions(folder: Path) -> None:
    tunnel = f"bastion=ssh://tunnel@bastion.example.com:2222?identity_files={folder}/key&known_hosts={folder}/hosts"
    done = run("init", "--tunnel", tunnel, "--backend", "orders=mysql://db-1,db-2?via=bastion&listen=127.0.0.1:3306")
    assert done.exit_code == 0, done.output
    assert "port: 2222" in (folder / "gateway.yaml").read_text()
    assert run("validate", "-c", "gateway.yaml").output == "valid: 1 tunnel, 1 backend\n"


def test_an_existing_file_is_not_changed(folder: Path) -> None:
    (folder / "gateway.yaml").write_text("backends: {}\n")
    assert run("init", "--backend", "a=tcp://db:1").exit_code != 0
    assert (folder / "gateway.yaml").read_text() == "backends: {}\n"


def test_an_invalid_answer_is_asked_again(folder: Path) -> None:
    answers = [
        "ssh", "bastion host", "bastion",  # a space is not valid in a name
        "user@bastion.example.com", "tunnel", "22", "missing", "key", "hosts",  # a user in the host, a missing key
        "bastion.example.com", "", "", "", "",
        "postgres", "reports", "pg.internal:x", "pg.internal", "5432", "127.0.0.1:5432",
        "gateway", "secret", "a password", "",
        "n",
    ]  # fmt: skip
    done = run("init", "first.yaml", answers="\n".join(answers) + "\n")
    assert done.exit_code == 0, done.output
    assert "'bastion host' is not a valid name" in done.output
    assert "'user@bastion.example.com' contains a user" in done.output
    assert "missing is not a file" in done.output
    assert "a password" not in done.output
    assert (folder / "secret").read_text() == "a password\n"
    assert (folder / "secret").stat().st_mode & 0o777 == 0o600
    assert run("validate", "-c", "first.yaml").output.endswith("valid: 1 tunnel, 1 backend\n")


def test_an_aborted_dialogue_writes_nothing(folder: Path) -> None:
    assert run("init", answers="ssh\n").exit_code == 1
    assert not (folder / "gateway.yaml").exists()
