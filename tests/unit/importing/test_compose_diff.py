"""Tests the diffs that `gateway import --diff` prints, and edits of single values in YAML text."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import cli
from gateway.errors import UsageError
from gateway.importing.config_conversion import convert
from gateway.importing.source_format import ImportSource
from gateway.importing.yaml_edit import YamlEdit
from tests.support.import_cases import DIFFS, compose_diff, sections


@pytest.mark.parametrize("path", DIFFS, ids=lambda path: path.stem)
def test_a_case_has_the_expected_diff(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, diff, notes = compose_diff(path)
    if os.environ.get("UPDATE_GOLDEN"):
        given = [each for each in sections(path) if each[0] not in ("diff", "notes")]
        path.write_text("".join(f"=== {head}\n{body}" for head, body in [*given, ("diff", diff), ("notes", notes)]))
    expected = dict(sections(path))
    assert diff == expected["diff"]
    assert notes == expected["notes"]


def without_x(item: str) -> str | None:
    return None if item == "x" else item


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
        ("a:\n  b: >-\n    t\n    u\n  c: 1\n", [("put", ("a", "b"), "x")], "a:\n  b: x\n  c: 1\n"),
        ("a: 1", [("put", ("b",), {"c": [1]})], "a: 1\nb:\n  c:\n  - 1\n"),
        (
            "a:\n  - x # 1\n  - y # 2\n",
            [("items", ("a",), lambda each: {"x": None}.get(each, "z"))],
            "a:\n  - z # 2\n",
        ),
        (
            "a:\n  - x\n  - y\n",
            [("put", ("a",), ["x", "y", "z"]), ("items", ("a",), without_x)],
            "a:\n- y\n- z\n",
        ),
        *(
            (
                text,
                [("put", ("a",), ["x", "z"]), ("items", ("a",), without_x)],
                "a:\n- z\n",
            )
            for text in ("a:\n  - x\n  - y\n", "a: ab\n")
        ),
        (
            "b: 1\n",
            [("put", ("a",), ["x", "z"]), ("items", ("a",), without_x)],
            "b: 1\na:\n- z\n",
        ),
        (
            "a:\n  - x\n  - y\n  - z\n",
            [("items", ("a",), lambda each, gone=gone: None if each == gone else each) for gone in "xy"],
            "a:\n- z\n",
        ),
        ("a: [x, y]\n", [("items", ("a",), without_x)], "a: [y]\n"),
        ("a:\nb: 1\n", [("put", ("a", "c"), 1)], "a:\n  c: 1\nb: 1\n"),
        (
            "a: {b: {c: 1}}\n",
            [("put", ("a", "d", "e"), 1), ("put", ("a", "d", "f"), 2)],
            "a: {b: {c: 1}, d: {e: 1, f: 2}}\n",
        ),
        ("a: [1]\nb:\n- 2\nc: 3\n", [("put", ("b",), ["x"]), ("put", ("c",), "y")], "a: [1]\nb:\n- x\nc: y\n"),
    ],
)
def test_an_edit_changes_only_its_key(text: str, changes: list[Any], expected: str) -> None:
    assert edited(text, *changes) == expected


@pytest.mark.parametrize(
    "text",
    [
        "x: &e {b: 1}\na: *e\n",
        "x: &e\n  b: 1\na:\n  <<: *e\n  c: 1\n",
        "x: &e {b: 1}\na: {<<: *e, c: 1}\n",
        "{x: &e {b: 1}, a: *e}\n",
    ],
)
def test_an_edit_does_not_change_what_an_anchor_shares(text: str) -> None:
    for change in (("put", ("a", "b"), 2), ("remove", ("a", "b"), None)):
        with pytest.raises(UsageError, match=r"^a(\.b)? comes from a YAML anchor, .* manually$"):
            edited(text, change)


@pytest.mark.parametrize("arguments", [["ssh -L 1:a:2 u@h"], ["a.yaml", "b.yaml"]])
def test_a_diff_needs_one_compose_file(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in arguments:
        if name.endswith(".yaml"):
            Path(name).write_text("services: {a: {image: a, environment: {DB_HOST: db.example.com}}}\n")
    done = CliRunner().invoke(cli, ["import", "--diff", *arguments])
    assert isinstance(done.exception, UsageError)
    assert "needs one Compose file" in str(done.exception)


def test_a_file_in_format_1_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("a: {image: a, environment: {DB_HOST: db.example.com}}\n")
    done = CliRunner().invoke(cli, ["import", "--diff", str(file)])
    assert isinstance(done.exception, UsageError)
    assert "format 1: put the services below" in str(done.exception)


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(tmp_path / "compose.yaml")
    link.write_text("services: {a: {image: a, environment: {DB_HOST: db.example.com}}}\n")
    done = CliRunner().invoke(cli, ["import", "--diff", str(link)])
    assert isinstance(done.exception, UsageError)
    assert "is a symbolic link" in str(done.exception)


def test_a_file_with_tags_is_refused() -> None:
    with pytest.raises(UsageError, match="contains a tag such as !override"):
        YamlEdit("services: {a: {ports: !override ['80:80']}}\n")


def changed_extra_hosts(tmp_path: Path, existing: str) -> Any:
    """Return the new `extra_hosts` of a database client. An NFS volume makes the gateway use the host's network."""
    file = tmp_path / "compose.yaml"
    file.write_text(
        f"services: {{a: {{image: a, environment: {{DB_HOST: db.example.com}}, extra_hosts: {existing}}}}}\n"
        "volumes: {v: {driver_opts: {type: nfs, o: 'addr=nas.example.com', device: ':/v'}}}\n"
    )
    done = CliRunner().invoke(cli, ["import", "--diff", str(file)], catch_exceptions=False)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("+services:")]
    return yaml.safe_load(line.removeprefix("+"))["services"]["a"]["extra_hosts"]


@pytest.mark.parametrize(
    ("existing", "kept"),
    [
        ("{b: 10.0.0.1, c: [10.0.0.2, '::1']}", ["b:10.0.0.1", "c:10.0.0.2", "c:::1"]),
        ("['b:10.0.0.1']", ["b:10.0.0.1"]),
        ("", []),
    ],
)
def test_a_diff_keeps_extra_hosts(tmp_path: Path, existing: str, kept: list[str]) -> None:
    assert changed_extra_hosts(tmp_path, existing) == [*kept, "db:host-gateway"]


def test_extra_hosts_that_are_not_strings_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"services\.a\.extra_hosts\.0 must be a string, not a mapping"):
        changed_extra_hosts(tmp_path, "[{b: 10.0.0.1}]")


def test_an_override_file_with_a_list_instead_of_a_mapping_is_an_error() -> None:
    files = [
        ImportSource(name, text)
        for name, text in (
            ("compose.yaml", "services: {a: {image: a, environment: {DB_HOST: db.example.com}}}"),
            ("compose.override.yaml", "services: [{a: {environment: {DB_PASSWORD: hunter2}}}]"),
        )
    ]
    with pytest.raises(UsageError) as raised:
        convert(files)
    assert str(raised.value) == "services.0 must be a string, not a mapping"
