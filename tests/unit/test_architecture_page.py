"""Tests whether the modules in docs and docstrings exist, and whether docs/architecture.md lists each package."""

import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gateway"
PAGE = (ROOT / "docs/architecture.md").read_text()


def named_paths(page: str) -> set[str]:
    """Return the paths of modules and folders in the code spans of a page, and file names without a folder."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`((?:\w+/)*\w+\.py|(?:\w+/)+)`", text))


def missing(page: str, *more: Path) -> list[str]:
    """Return the paths in `page` that do not exist in the package, the repository, or a folder of `more`.

    If the path is a file name without a folder, the file can be at any depth of the package or of a folder of `more`.
    """
    anywhere = _module_names(PACKAGE, *more)
    return sorted(
        path
        for path in named_paths(page)
        if path not in anywhere and not any((folder / path).exists() for folder in (PACKAGE, ROOT, *more))
    )


@functools.cache
def _module_names(*folders: Path) -> frozenset[str]:
    return frozenset(path.name for folder in folders for path in folder.rglob("*.py"))


def unknown(text: str) -> list[str]:
    """Return the names in `text` of the form `gateway.PACKAGE.MODULE.NAME` that do not exist."""
    return sorted(name for name in set(re.findall(r"`(gateway(?:\.\w+){2,})", text)) if not _exists(name))


@functools.cache
def _exists(qualified: str) -> bool:
    parts = qualified.split(".")
    for count in range(len(parts), 1, -1):
        folder = ROOT.joinpath(*parts[:count])
        for file in (folder.with_suffix(".py"), folder / "__init__.py"):
            if file.exists():
                return set(parts[count:]) <= set(re.findall(r"\w+", file.read_text()))
    return False


def listed_packages(page: str) -> list[str]:
    """Return the packages that the code block under "Packages" lists."""
    block = page.partition("```\ngateway/\n")[2].partition("```")[0]
    return re.findall(r"^  (\w+)/ ", block, re.MULTILINE)


def test_every_path_that_the_page_names_exists() -> None:
    assert len(named_paths(PAGE)) > 50
    assert missing(PAGE) == []


def test_every_path_that_the_page_about_tests_names_exists() -> None:
    page = (ROOT / "docs/testing.md").read_text()
    assert len(named_paths(page)) > 10
    assert missing(page, ROOT / "tests", ROOT / "tests/fuzz") == []


def test_every_module_that_a_docstring_names_exists() -> None:
    texts = {path.relative_to(PACKAGE): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert {path: found for path, text in texts.items() if (found := missing(text) + unknown(text))} == {}


def test_the_page_lists_every_package() -> None:
    assert sorted(listed_packages(PAGE)) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def test_the_page_lists_every_module_at_the_top_level() -> None:
    (paragraph,) = re.findall(r"^These modules are at the top level(.*?)^$", PAGE, re.MULTILINE | re.DOTALL)
    listed = re.findall(r"`(\w+\.py)`", paragraph)
    assert sorted(listed) == sorted(path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__"))


@pytest.mark.parametrize("path", ["ssh/pools.py", "poll_pool.py", "docker/plans/", "errors/pool.py"])
def test_a_missing_path_is_reported(path: str) -> None:
    assert missing(f"`ssh/pool.py`, `facts.py` and `{path}` in `docker/planning/`") == [path]


def test_an_unknown_qualified_name_is_reported() -> None:
    known = "`gateway.ssh.pool`, `gateway.errors.DialError` and `gateway.contracts.link.Link.socket(…)`"
    wrong = ["gateway.errors.DialFault", "gateway.ssh.pools.SshConnectionPool"]
    assert unknown(f"{known}, `{wrong[0]}` and `{wrong[1]}`; the key `gateway.strict`") == wrong
