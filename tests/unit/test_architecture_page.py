"""docs/architecture.md names modules and packages that exist, and lists each package."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gateway"
PAGE = (ROOT / "docs/architecture.md").read_text()


def named_paths(page: str) -> set[str]:
    """Return the paths of modules and folders in code spans outside code blocks. A module can be without a folder."""
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`((?:\w+/)*\w+\.py|(?:\w+/)+)`", text))


def missing(page: str) -> list[str]:
    """Return the named paths that exist neither in the package nor in the repository.

    A module's name without a folder is found in any folder of the package.
    """
    anywhere = {path.name for path in PACKAGE.rglob("*.py")}
    return sorted(
        path
        for path in named_paths(page)
        if path not in anywhere and not any((folder / path).exists() for folder in (PACKAGE, ROOT))
    )


def listed_packages(page: str) -> list[str]:
    """Return the packages that the code block under "Packages" lists."""
    block = page.partition("```\ngateway/\n")[2].partition("```")[0]
    return re.findall(r"^  (\w+)/ ", block, re.MULTILINE)


def test_every_path_that_the_page_names_exists() -> None:
    assert len(named_paths(PAGE)) > 50
    assert missing(PAGE) == []


def test_the_page_lists_every_package() -> None:
    assert sorted(listed_packages(PAGE)) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


@pytest.mark.parametrize("path", ["ssh/pools.py", "poll_pool.py", "docker/plans/", "errors/pool.py"])
def test_a_missing_path_is_reported(path: str) -> None:
    assert missing(f"`ssh/pool.py`, `facts.py` and `{path}` in `docker/planning/`") == [path]
