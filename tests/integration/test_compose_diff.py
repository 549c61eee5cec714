"""Applies the diffs of `gateway import --diff` with patch(1), and reads the result with Compose."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import cli
from gateway.config import ConfigSources, load
from tests.support.files import REPOSITORY
from tests.support.import_cases import CORPUS, DIFFS, compose_diff
from tests.support.requirements import need

pytestmark = pytest.mark.integration

LEGACY = REPOSITORY / "configs" / "compose" / "legacy"
WITH_COMPOSE_FILE = [
    path
    for path in CORPUS
    if len(re.findall(r"(?m)^=== file .*\.ya?ml$", path.read_text())) == 1 and path.stem != "compose_format_1"
]


def applied(diff: str) -> None:
    """Apply a diff in the current directory."""
    need(shutil.which("patch") is not None, "patch (package patch)")
    done = subprocess.run(["patch", "-p0"], input=diff, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def need_compose() -> None:
    """Skip the test if Compose is not installed."""
    version = ["docker", "compose", "version"]
    found = shutil.which("docker") is not None and subprocess.run(version, check=False, timeout=30).returncode == 0
    need(found, "docker compose (packages docker-cli docker-compose)")


@pytest.mark.parametrize("path", [*DIFFS, *WITH_COMPOSE_FILE], ids=lambda path: path.stem)
def test_a_diff_gives_a_configuration_and_a_compose_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, diff, _ = compose_diff(path)
    applied(diff)
    file = Path(name).parent / "gateway.yaml"
    text = file.read_text()
    environment = {each: each for each in re.findall(r"\$\{(\w+)\}", text)}
    config = load(ConfigSources(file=file, environment=environment))
    document = yaml.safe_load(Path(name).read_text())
    gateway = document["services"]["gateway"]
    assert {f"/run/secrets/{each}" for each in gateway.get("secrets", [])} >= set(
        re.findall(r"/run/secrets/\S+", text)
    )
    aliases = {each for network in gateway.get("networks", {}).values() for each in network["aliases"]}
    assert gateway.get("network_mode") == "host" or aliases >= config.backends.keys()
    for service in document["services"].values():
        owner = str(service.get("network_mode", "")).partition("service:")[2]
        assert not owner or owner in document["services"]
        assert set(service.get("depends_on", ())) <= document["services"].keys()


@pytest.mark.parametrize("path", DIFFS, ids=lambda path: path.stem)
def test_compose_accepts_the_new_file(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_compose()
    monkeypatch.chdir(tmp_path)
    name, diff, _ = compose_diff(path)
    applied(diff)
    environment = {**os.environ, "SSH_AUTH_SOCK": "/run/agent", "HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path)}
    done = subprocess.run(
        ["docker", "compose", "-f", name, "config", "--format", "json"],
        env=environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "gateway" in json.loads(done.stdout)["services"]


def test_without_an_agent_compose_requires_an_agent_or_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_compose()
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path)}
    environment.pop("SSH_AUTH_SOCK", None)
    outputs = []
    for key in ("", "-i ./key"):
        Path("gateway.yaml").unlink(missing_ok=True)
        Path("compose.yaml").write_text("services: {app: {image: app, environment: {DB_HOST: localhost}}}\n")
        command = f"ssh {key} -N -L 3306:db:3306 user@bastion"
        diff = CliRunner().invoke(cli, ["import", "--diff", command, "compose.yaml"]).stdout
        applied(diff)
        done = subprocess.run(
            ["docker", "compose", "config", "--quiet"],
            env=environment, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        outputs.append(done.stderr)
    assert "start an SSH agent, or import again with a key" in outputs[0]
    assert outputs[1] == ""


def test_the_legacy_example_is_what_its_commands_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.search(r"(?s)```sh\n(cp .*?)```", (LEGACY / "README.md").read_text())
    assert commands is not None
    copied, imported = commands[1].splitlines()
    assert copied == "cp before.yaml compose.yaml"
    shutil.copy(LEGACY / "before.yaml", "compose.yaml")
    arguments = shlex.split(imported.removesuffix(" | patch -p0"))
    assert arguments.pop(0) == "gateway"
    done = CliRunner().invoke(cli, arguments)
    applied(done.stdout)
    for name in ("compose.yaml", "gateway.yaml"):
        assert Path(name).read_text() == (LEGACY / name).read_text()


@pytest.mark.parametrize("name", ["sp ace/compose.yaml", "../compose.yaml", "/a b/compose.yaml"])
def test_patch_accepts_the_path_of_the_compose_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(shutil.which("patch") is not None, "patch (package patch)")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    file = Path(f"{tmp_path}{name}" if name.startswith("/") else name)
    file.parent.mkdir(exist_ok=True)
    file.write_text("services: {a: {image: a, environment: {DB_HOST: db.example.com, DB_PORT: 3306}}}\n")
    done = CliRunner().invoke(cli, ["import", "--diff", str(file)])
    assert done.exit_code == 0, repr(done.exception)
    command = re.search(r"apply the diff with `(patch.*?)`", done.stderr)
    words = shlex.split(command[1]) if command else ["patch", "-p0"]
    subprocess.run(words, input=done.stdout, capture_output=True, text=True, check=True, timeout=10)
    assert "gateway" in yaml.safe_load(file.read_text())["services"]
    assert (file.parent / "gateway.yaml").is_file()
