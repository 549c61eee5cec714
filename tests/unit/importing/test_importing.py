import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import cli
from gateway.config import Sources, load
from gateway.errors import UsageError
from gateway.importing import compose, ssh
from gateway.importing.result import ImportResult


def imported(text: str, tmp_path: Path) -> ImportResult:
    """Return the output of an import, after the gateway has parsed it."""
    result = ImportResult()
    ssh.import_command(text, result)
    readable(result, tmp_path)
    return result


def readable(result: ImportResult, tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(result.to_yaml())
    environment = {"HOME": "/home/me", "USER": "me", "SSH_AUTH_SOCK": "/run/agent"}
    config = load(Sources(file=path, environment=environment))
    assert config.backends.keys() == result.backends.keys()


def test_a_usual_ssh_command_is_imported(tmp_path: Path) -> None:
    result = imported("ssh -i ~/.ssh/tunnel -L 3306:db.internal:3306 -N -f tunnel@bastion.example.com", tmp_path)
    assert result.tunnels == {
        "bastion": {
            "kind": "ssh", "host": "bastion.example.com", "user": "tunnel",
            "identity_files": ["${HOME}/.ssh/tunnel"], "known_hosts": ["${HOME}/.ssh/known_hosts"],
        }
    }  # fmt: skip
    assert result.backends == {
        "db": {"kind": "mysql", "via": "bastion", "targets": ["db.internal:3306"], "listen": "127.0.0.1:3306"}
    }


def test_jumps_ports_options_and_many_forwards(tmp_path: Path) -> None:
    result = imported(
        "autossh -M 0 -fNT -J ops@edge:2200,mid -p 2222 -l tunnel -o IdentityFile=/k -oStrictHostKeyChecking=no "
        "-L 0.0.0.0:15432:pg.internal:5432 -L '[::1]:9000:[fd00::5]:9000' -L8080:localhost:80 -g inner.example.com",
        tmp_path,
    )
    assert list(result.tunnels) == ["edge", "mid", "inner"]
    assert result.tunnels["edge"]["port"] == 2200
    assert result.tunnels["mid"]["via"] == "edge"
    assert (result.tunnels["inner"]["via"], result.tunnels["inner"]["port"]) == ("mid", 2222)
    assert {name: (each["kind"], each["listen"]) for name, each in result.backends.items()} == {
        "pg": ("postgres", "0.0.0.0:15432"), "fd00--5": ("tcp", "[::1]:9000"), "tcp-80": ("tcp", "0.0.0.0:8080"),
    }  # fmt: skip
    assert any("host keys are always checked" in note for note in result.notes)


def test_a_config_file_with_defaults_and_a_jump_that_is_a_host_of_it(tmp_path: Path) -> None:
    result = ImportResult()
    ssh.import_config(
        "Host edge\n  HostName edge.example.com\n  User ops\n"
        "Host db !other\n  HostName 10.0.0.5\n  ProxyJump edge\n  LocalForward 3306 db:3306\n"
        "  LocalForward 127.0.0.1:5432 pg:5432\nHost plain\n  User x\n"
        "Host *\n  User tunnel\n  IdentityFile = ~/.ssh/id\n",
        result,
    )
    readable(result, tmp_path)
    assert result.tunnels["edge"] == {
        "kind": "ssh", "host": "edge.example.com", "user": "ops", "identity_files": ["${HOME}/.ssh/id"],
        "known_hosts": ["${HOME}/.ssh/known_hosts"],
    }  # fmt: skip
    assert result.tunnels["10-0-0-5" if "10-0-0-5" in result.tunnels else "db"]["via"] == "edge"
    assert {each["listen"] for each in result.backends.values()} == {"127.0.0.1:3306", "127.0.0.1:5432"}


def test_a_compose_file_with_a_tunnel_container_and_an_nfs_volume(tmp_path: Path) -> None:
    result = ImportResult()
    compose.import_compose(
        yaml.safe_dump(
            {
                "services": {
                    "tunnel": {
                        "image": "alpine",
                        "command": ["sh", "-c", "ssh -N -i /k -L 3306:db:3306 u@b; sleep 1"],
                    },
                    "app": {"image": "app", "command": "run --fast"},
                },
                "volumes": {
                    "media": {"driver_opts": {"type": "nfs", "o": "addr=10.0.0.9,ro,nfsvers=4", "device": ":/media"}},
                    "plain": None,
                },
            }
        ),
        result,
    )
    readable(result, tmp_path)
    assert result.backends["db"]["listen"] == "127.0.0.1:3306"
    assert result.backends["media"]["volume"] == {"name": "media", "read_only": True}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssh user@host", "there is no local forward"),
        ("ssh -L 3306:db:3306", "names no server"),
        ("ssh -L nonsense u@h", "needs"),
        ("ssh -L 99999:db:3306 u@h", "not a port"),
        ("ssh -L", "needs a value"),
        ("ssh 'unclosed", "cannot be parsed"),
    ],
)
def test_what_cannot_be_imported_is_reported(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ssh.import_command(text, ImportResult())


def test_the_commands(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["import", "ssh", "ssh -R 1:a:2 -L 3306:db:3306 u@h"])
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["backends"]["db"]["kind"] == "mysql"
    assert "only -L is supported" in done.stderr
    file = tmp_path / "config"
    file.write_text("Host a\n  LocalForward 1000 b:1000\n  User u\n")
    assert CliRunner().invoke(cli, ["import", "ssh-config", str(file)]).exit_code == 0
    file.write_text("services: {t: {command: ssh -L 1000:b:1000 u@a}}\n")
    assert CliRunner().invoke(cli, ["import", "compose", str(file)]).exit_code == 0


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("services: {a: 3}", "services.a must be a mapping"),
        ("services: [a]", "services must be a mapping"),
        ("volumes: [n]", "volumes must be a mapping"),
        ("volumes: {n: {driver_opts: [a]}}", "volumes.n.driver_opts must be a mapping"),
        ('services: {a: {command: "ssh \'x"}}', "services.a.command: No closing quotation"),
        (
            "volumes: {n: {driver_opts: {type: nfs, o: 'addr=h,port=x', device: ':/m'}}}",
            "volumes.n: port=x is not a port number",
        ),
        ("volumes: {n: {driver_opts: {type: nfs, o: rw, device: ':/m'}}}", "volumes.n: the server"),
        ("- a", "not a compose file"),
        ("{", "not valid YAML"),
    ],
)
def test_an_invalid_compose_file_is_reported_with_the_position(document: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        compose.import_compose(document, ImportResult())


def test_empty_sections_and_other_mounts_of_a_compose_file_are_accepted(tmp_path: Path) -> None:
    result = ImportResult()
    compose.import_compose(
        "services: {a: }\n"
        "volumes: {nas: {driver_opts: {type: nfs, o: 'addr=fd00::1,nfsvers=3', device: ':/m'}}, p: }\n",
        result,
    )
    readable(result, tmp_path)
    assert result.backends["nas"]["targets"] == ["[fd00::1]:2049"]
    assert any("NFS version 3" in note for note in result.notes)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_bytes(b"\xff\xfe")
    for kind in ("compose", "ssh-config"):
        done = CliRunner().invoke(cli, ["import", kind, str(file)])
        assert isinstance(done.exception, UsageError), done.output
        assert str(file) in str(done.exception)
