"""Applies the diffs of `gateway import --diff` with patch(1), and reads the result with Compose."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import cli
from gateway.config import Sources, load
from gateway.errors import UsageError
from gateway.importing.yaml_edit import YamlEdit

LEGACY = Path(__file__).parents[3] / "configs" / "compose" / "legacy"
CASES = sorted(Path(__file__).parent.glob("diffs/*.txt"))
CORPUS = [
    path
    for path in sorted(Path(__file__).parent.glob("corpus/*.txt"))
    if len(re.findall(r"(?m)^=== file .*\.ya?ml$", path.read_text())) == 1
]


def sections(path: Path) -> list[tuple[str, str]]:
    """Return head and body of each section of a case."""
    parts = re.split(r"(?m)^=== (.*)\n", path.read_text())[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def compose_diff(path: Path) -> tuple[str, str, str]:
    """Write the files of a case to the current directory; return the Compose file's name, the diff and the notes."""
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


def applied(diff: str) -> None:
    """Apply a diff in the current directory."""
    done = subprocess.run(["patch", "-p0"], input=diff, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_case_has_the_expected_diff(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, diff, notes = compose_diff(path)
    if os.environ.get("UPDATE_GOLDEN"):
        given = [each for each in sections(path) if each[0] not in ("diff", "notes")]
        path.write_text("".join(f"=== {head}\n{body}" for head, body in [*given, ("diff", diff), ("notes", notes)]))
    expected = dict(sections(path))
    assert diff == expected["diff"]
    assert notes == expected["notes"]


@pytest.mark.parametrize("path", [*CASES, *CORPUS], ids=lambda path: path.stem)
def test_a_diff_gives_a_configuration_and_a_compose_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, diff, _ = compose_diff(path)
    applied(diff)
    file = Path(name).parent / "gateway.yaml"
    text = file.read_text()
    environment = {each: each for each in re.findall(r"\$\{(\w+)\}", text)}
    config = load(Sources(file=file, environment=environment))
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


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs docker compose")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_compose_accepts_the_new_file(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def edited(text: str, *changes: tuple[str, tuple[str, ...], Any]) -> str:
    edit = YamlEdit(text)
    for action, path, value in changes:
        if action == "put":
            edit.put(path, value)
        elif action == "remove":
            edit.remove(path)
        else:
            edit.change_items(path, value)
    return edit.text()


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("a: 1 # one\nb: 'x'\n", [("put", ("a",), 2)], "a: 2 # one\nb: 'x'\n"),
        ("a: {b: 1, c: 2} # c\n", [("put", ("a", "b"), 3)], "a: {b: 3, c: 2} # c\n"),
        ("a:\n    b: 1\n\n# end\n", [("put", ("a", "c"), 2)], "a:\n    b: 1\n    c: 2\n\n# end\n"),
        ("a:\n  b: 1\n  c: 2\n", [("remove", ("a", "b"), 0)], "a:\n  c: 2\n"),
        ("x: 1\na:\n  b:\n    c: 1\n  d: 1\n", [("remove", ("a", "b", "c"), 0)], "x: 1\na:\n  d: 1\n"),
        ("a:\n  b: |\n    t\n  c: 1\n", [("remove", ("a", "b"), 0)], "a:\n  c: 1\n"),
        ("a: 1", [("put", ("b",), {"c": [1]})], "a: 1\nb:\n  c:\n  - 1\n"),
        (
            "a:\n  - x # 1\n  - y # 2\n",
            [("items", ("a",), lambda each: {"x": None}.get(each, "z"))],
            "a:\n  - z # 2\n",
        ),
        ("a: [x, y]\n", [("items", ("a",), lambda each: None if each == "x" else each)], "a: [y]\n"),
        ("a:\nb: 1\n", [("put", ("a", "c"), 1)], "a:\n  c: 1\nb: 1\n"),
        ("a: [1]\nb:\n- 2\nc: 3\n", [("put", ("b",), ["x"]), ("put", ("c",), "y")], "a: [1]\nb:\n- x\nc: y\n"),
    ],
)
def test_an_edit_changes_only_what_it_names(text: str, changes: list[Any], expected: str) -> None:
    assert edited(text, *changes) == expected


@pytest.mark.parametrize(
    "text",
    ["x: &e {b: 1}\na: *e\n", "x: &e\n  b: 1\na:\n  <<: *e\n  c: 1\n"],
)
def test_an_edit_does_not_change_what_an_anchor_shares(text: str) -> None:
    with pytest.raises(UsageError, match="anchor"):
        edited(text, ("put", ("a", "b"), 2))


@pytest.mark.parametrize("arguments", [["ssh -L 1:a:2 u@h"], ["a.yaml", "b.yaml"]])
def test_a_diff_needs_one_compose_file(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in arguments:
        if name.endswith(".yaml"):
            Path(name).write_text("services: {a: {image: a, environment: {DB_HOST: db.example.com}}}\n")
    done = CliRunner().invoke(cli, ["import", "--diff", *arguments])
    assert isinstance(done.exception, UsageError)
    assert "needs one Compose file" in str(done.exception)
