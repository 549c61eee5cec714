"""Tests whether docs/security.md lists existing tests, and whether SECURITY.md names the current version."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from gateway import __version__

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
_TEST = re.compile(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")


def rows(head: str, columns: int) -> list[list[str]]:
    """Return the rows of the table in docs/security.md that has the header row `head`."""
    table = PAGE.partition(f"\n{head}\n| ---: |" + " --- |" * (columns - 1) + "\n")[2].partition("\n\n")[0]
    found = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
    assert all(len(row) == columns and all(row) for row in found), found
    assert [row[0] for row in found] == [str(number) for number in range(1, len(found) + 1)]
    return found


def threats() -> dict[str, list[tuple[str, str]]]:
    """Map each threat in docs/security.md to its tests. Each test is given as its file and name."""
    named, tests = rows("| | Threat | Defense |", 3), rows("| Threat | Tests |", 2)
    return {threat[1]: _TEST.findall(test[1]) for threat, test in zip(named, tests, strict=True)}


@cache
def named_in(path: str) -> set[str]:
    """Return the names of the tests in a file, without importing the file."""
    tree = ast.parse((ROOT / path).read_text())
    functions = (each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
    return {each.name for each in functions if each.name.startswith("test_")}


def test_the_table_has_the_threats() -> None:
    assert len(threats()) > 30


@pytest.mark.parametrize("threat", threats())
def test_every_threat_has_existing_tests(threat: str) -> None:
    named = threats()[threat]
    assert named
    for path, name in named:
        assert name in named_in(path), f"{path}::{name}"


def test_every_test_on_the_page_has_its_full_path() -> None:
    assert len(_TEST.findall(PAGE)) == PAGE.count("::test_")


def test_the_supported_versions_include_the_current_one() -> None:
    minor = ".".join(__version__.split(".")[:2])
    assert f"| the newest {minor}.x release | yes |" in (ROOT / "SECURITY.md").read_text()
