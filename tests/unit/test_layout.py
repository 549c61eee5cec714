"""Checks the folders and the imports of tests, and that no two classes of the package have the same name."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SHARED = ("support", "soak", "fuzz")
MODULES = sorted(path for path in TESTS.rglob("*.py") if path.name.startswith("test_") or path.name == "conftest.py")


def imported(source: str) -> Iterator[str]:
    """Yield the full name of every import of the module, including imports inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def forbidden(source: str) -> list[str]:
    """Return the imports that test modules must not have: other test modules, a conftest, and relative imports."""
    found = []
    for name in imported(source):
        first, *rest = name.split(".")
        if first == "tests":
            wrong = not rest or rest[0] not in SHARED
        else:
            wrong = first in ("", "conftest") or first.startswith("test_")
        if wrong:
            found.append(name)
    return found


def misplaced(folder: Path, package: Path) -> list[str]:
    """Return the folders of tests below `folder` for which `package` has no package of the same name."""
    folders = {path.parent.relative_to(folder) for path in folder.rglob("test_*.py")}
    return sorted(str(each) for each in folders if not (package / each / "__init__.py").exists())


def shared_names(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the class names that are defined more than once, in one module or in several modules."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(path)
    return {name: where for name, where in found.items() if len(where) > 1}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(TESTS)))
def test_test_modules_do_not_import_each_other(path: Path) -> None:
    assert forbidden(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from tests.integration.test_ssh import opened",
        "from tests.integration import conftest",
        "from tests.unit.ssh import test_algorithms",
        "import tests.integration.conftest",
        "from tests import integration",
        "from . import conftest",
        "from conftest import need",
        "def fixture():\n    from test_ssh import opened\n",
    ],
)
def test_imports_of_test_modules_are_found(source: str) -> None:
    assert len(forbidden(source)) == 1


def test_shared_modules_and_libraries_may_be_imported() -> None:
    text = "import pytest\nfrom aiohttp.test_utils import TestClient\nfrom tests.soak import chaos\n"
    assert forbidden(text + "from tests.support.clients import connect\nimport tests.fuzz.run\n") == []


def test_shared_modules_import_no_test_modules() -> None:
    paths = [path for name in SHARED for path in (TESTS / name).rglob("*.py")]
    assert len(paths) > len(SHARED)
    assert {str(path): forbidden(path.read_text()) for path in paths if forbidden(path.read_text())} == {}


def test_unit_tests_mirror_the_packages(tmp_path: Path) -> None:
    assert misplaced(TESTS / "unit", ROOT / "gateway") == []
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "test_it.py").touch()
    assert misplaced(tmp_path, ROOT / "gateway") == ["absent"]


def test_class_names_are_unique() -> None:
    modules = list((ROOT / "gateway").rglob("*.py"))
    assert len(modules) > 1
    assert shared_names(modules) == {}


def test_shared_class_names_are_found(tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("class Pool: ...\nclass Link: ...\n")
    other.write_text("def make():\n    class Pool: ...\n")
    assert shared_names([one, other]) == {"Pool": [one, other]}
    assert shared_names([one]) == {}
