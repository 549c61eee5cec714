"""Tests `gateway init` with flags, and with answers to its questions. `gateway validate` accepts the written file."""

import re
import resource
import socket
from pathlib import Path

import asyncssh
import pytest
import yaml
from click.testing import CliRunner, Result

from gateway.cli import cli
from gateway.cli.init_answers import create_file
from gateway.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a key and a known_hosts file. It is both the working directory and the home directory."""
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
        "user@bastion.example.com", "127.0.0.1:22", "bastion.example.com",  # a user or a port is not valid in a host
        "tunnel", "70000", "22", "missing", "key", "hosts",  # the file `missing` does not exist
        "postgres", "reports", "pg.internal:x", "pg.internal", "5432", "127.0.0.1:5432",
        "gateway", "secret", "a password", "",
        "n",
    ]  # fmt: skip
    done = run("init", "first.yaml", answers="\n".join(answers) + "\n")
    assert done.exit_code == 0, done.output
    assert "'bastion host' is not a valid name" in done.output
    assert "'user@bastion.example.com' contains a user" in done.output
    assert "'127.0.0.1:22' contains a port: write only the host" in done.output
    assert "must be from 1 to 65535" in done.output
    assert "missing is not a file" in done.output
    assert "Answer again" not in done.output
    assert "  To create the file: ssh-keyscan -p 22 bastion.example.com > known_hosts\n" in done.output
    assert re.findall("^next: gateway ([a-z-]+ ?[a-z-]*) -c first.yaml$", done.output, re.MULTILINE) == [
        "render authorized-keys", "check", "run",
    ]  # fmt: skip
    assert "a password" not in done.output
    assert (folder / "secret").read_text() == "a password\n"
    assert (folder / "secret").stat().st_mode & 0o777 == 0o600
    assert run("validate", "-c", "first.yaml").output.endswith("valid: 1 tunnel, 1 backend\n")


def test_a_program_is_asked_for_as_in_a_shell(folder: Path) -> None:
    answers = [
        "command", "jump", "sh -c 'exec nc -l {local_port}'", "sideways", "port",
        "redis", "cache", "cache.internal", "", "", "secret", "a password", "",  # a password without a user
        "n",
    ]  # fmt: skip
    done = run("init", answers="\n".join(answers) + "\n")
    assert done.exit_code == 0, done.output
    assert "'sideways' is not one of port, stdio" in done.output
    assert yaml.safe_load((folder / "gateway.yaml").read_text()) == {
        "tunnels": {"jump": {"kind": "command", "command": ["sh", "-c", "exec nc -l {local_port}"], "mode": "port"}},
        "backends": {
            "cache": {
                "kind": "redis",
                "via": "jump",
                "targets": ["cache.internal:6379"],
                "listen": "127.0.0.1:6379",
                "check": {"password_file": str(folder / "secret")},
            }
        },
    }


def test_without_a_key_the_agent_and_a_password_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    login = ["ssh", "bastion", "bastion.example.com", "tunnel", "22", ""]  # no key
    backend = ["redis", "cache", "cache.internal", "", "", "", "n"]
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (folder / "secret").write_text("a password\n")
    (folder / "secret").chmod(0o600)
    answers = [*login, "", "secret", "hosts", *backend]
    done = run("init", "password.yaml", answers="\n".join(answers) + "\n")
    assert done.exit_code == 0, done.output
    assert f"password_file: {folder}/secret\n" in (folder / "password.yaml").read_text()
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind("agent")
        monkeypatch.setenv("SSH_AUTH_SOCK", str(folder / "agent"))
        answers = [*login, "", "hosts", *backend]
        done = run("init", "agent.yaml", answers="\n".join(answers) + "\n")
        assert done.exit_code == 0, done.output
    assert "agent: ${SSH_AUTH_SOCK}\n" in (folder / "agent.yaml").read_text()


def test_paths_that_cannot_be_used_are_asked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_account(user_id: int) -> None:
        raise KeyError(user_id)

    monkeypatch.setattr("pwd.getpwuid", no_account)  # simulate a user ID without an account
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)
    answers = [
        "ssh", "bastion", "bastion.example.com", "", "tunnel", "22",  # an empty user is refused
        "n" * 300, "~/key", "key", "hosts",
        "redis", "cache", "cache.internal", "", "", "~no-such-user/secret", "s" * 300, "secret", "a password", "",
        "n",
    ]  # fmt: skip
    done = run("init", answers="\n".join(answers) + "\n")
    assert done.exit_code == 0, done.output
    assert done.output.count(": File name too long: choose another path") == 2
    assert "~/key: the home directory is not known: write an absolute path" in done.output
    assert "~no-such-user/secret: the home directory is not known" in done.output
    assert f"password_file: {folder}/secret\n" in (folder / "gateway.yaml").read_text()


def test_the_proposed_listener_is_free(folder: Path) -> None:
    answers = [
        "none", "redis", "cache", "localhost:6379", "", "", "", "maybe", "yes",  # port 6379 is not free
        "redis", "cache", "queue", "queue.internal", "127.0.0.1:6380", "", "",  # the first backend uses port 6380
        "", "", "", "", "y",
        "tcp", "monitoring", "127.0.0.1:9090", "", "n",  # `ops.listen` already uses port 9090
    ]  # fmt: skip
    done = run("init", answers="\n".join(answers) + "\n")
    assert done.exit_code == 0, done.output
    assert done.output.count("Answer again") == 1
    assert "Error: there is already a backend cache: choose another name\n" in done.output
    assert "Error: 'maybe' is neither yes nor no: write y or n\n" in done.output
    assert (
        done.output.count("uses the next answers only to check the backend") == 3
    )  # once for `cache`, twice for `queue`, and never for kind tcp
    backends = yaml.safe_load((folder / "gateway.yaml").read_text())["backends"]
    assert {name: each["listen"] for name, each in backends.items()} == {
        "cache": "127.0.0.1:6380", "queue": "127.0.0.1:6379", "monitoring": "127.0.0.1:9091",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "remedy"),
    [("n" * 300, "choose another file"), ("missing/gateway.yaml", "choose a file in another directory")],
)
def test_a_file_that_cannot_be_written_is_reported_before_the_questions(folder: Path, file: str, remedy: str) -> None:
    done = CliRunner().invoke(cli, ["init", file], input="ssh\n")
    assert isinstance(done.exception, UsageError)
    assert str(done.exception).endswith(remedy)
    assert done.output == ""


def test_a_file_that_cannot_be_completed_is_removed(folder: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            create_file(folder / "password", "secret", 0o600)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (folder / "password").exists()


def test_an_aborted_dialogue_writes_nothing(folder: Path) -> None:
    assert run("init", answers="ssh\n").exit_code == 1
    assert not (folder / "gateway.yaml").exists()
