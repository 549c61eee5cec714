"""Tests the paths and the imports of test modules, and that type names in the package are unique."""

import ast
import builtins
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SHARED = ("support", "soak", "fuzz")
NO_MODULE = {
    "_dataplane/test_dials.py": "tests `dial.c` of the engine in C",
    "cli/test_mistakes.py": "tests the messages of all commands",
    "importing/test_corpus.py": "imports the files of the folder `corpus/` with the whole command",
    "test_architecture_page.py": "tests docs/architecture.md",
    "test_docs.py": "tests docs/",
    "test_fuzz.py": "tests tests/fuzz/",
    "test_layout.py": "tests the folders and imports of tests",
    "test_package.py": "tests the wheel, the lock files and the image",
    "test_security_page.py": "tests docs/security.md",
    "test_soak_parts.py": "tests tests/soak/",
    "test_words.py": "tests the words of all text",
}
"""Unit tests that are not named after a module, and the reason for each."""
STANDARD = frozenset(name for module in (builtins, pathlib) for name in dir(module))
"""Names in `builtins` and `pathlib`. Types of the package must not have these names."""
TYPE_NAME = re.compile(r"_?[A-Z]\w*[a-z]\w*")
"""Matches names in CapWords. Names of constants do not match, because they have no lower-case letters."""
MODULES = sorted(path for path in TESTS.rglob("*.py") if path.name.startswith("test_") or path.name == "conftest.py")


def imported(source: str) -> Iterator[str]:
    """Yield the full name of every import in `source`, including imports inside functions."""
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
    """Return the test modules below `folder` that do not correspond to a module or package of `package`.

    `a/test_b.py` corresponds to the module `a/b.py` or the package `a/b/`. `a/b/test_b.py` can also correspond to the
    package `a/b/`.
    """
    found = []
    for path in folder.rglob("test_*.py"):
        place = package / path.parent.relative_to(folder)
        name = path.stem.removeprefix("test_")
        named = name == place.name or (place / f"{name}.py").exists() or (place / name / "__init__.py").exists()
        if not (named and (place / "__init__.py").exists()):
            found.append(str(path.relative_to(folder)))
    return sorted(found)


def type_names(source: str) -> Iterator[str]:
    """Yield the name of each class, and of each type alias or new type at module level.

    Omits type variables, because only the functions of their module use them.
    """
    module = ast.parse(source)
    yield from (node.name for node in ast.walk(module) if isinstance(node, ast.ClassDef))
    for node in module.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and "TypeVar(" not in ast.unparse(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (each.id for each in targets if isinstance(each, ast.Name) and TYPE_NAME.fullmatch(each.id))


def shared_names(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Map each type name that is defined more than once, or is in `STANDARD`, to the paths of its modules."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        for name in type_names(path.read_text()):
            found[name].append(path)
    return {name: where for name, where in found.items() if len(where) > 1 or name in STANDARD}


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


def test_unit_tests_are_named_after_modules() -> None:
    assert misplaced(TESTS / "unit", ROOT / "gateway") == sorted(NO_MODULE)


def test_unit_tests_without_a_module_are_found(tmp_path: Path) -> None:
    tests, package = tmp_path / "tests", tmp_path / "package"
    for name in ("__init__.py", "one.py", "inner/__init__.py", "inner/two.py", "plain/three.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    right = ["test_one.py", "test_inner.py", "test_package.py", "inner/test_two.py", "inner/test_inner.py"]
    wrong = ["absent/test_absent.py", "inner/test_one.py", "plain/test_three.py", "test_two.py"]
    for name in right + wrong:
        (tests / name).parent.mkdir(parents=True, exist_ok=True)
        (tests / name).touch()
    assert misplaced(tests, package) == wrong


def test_type_names_are_unique() -> None:
    modules = list((ROOT / "gateway").rglob("*.py"))
    assert len(modules) > 1
    assert shared_names(modules) == {}


def test_shared_type_names_are_found(tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("class Pool: ...\nclass Link: ...\nDial = Callable[[], Link]\nLIMIT = 1\n")
    other.write_text("def make():\n    class Pool: ...\nDial: TypeAlias = Pool\nLIMIT = 2\n")
    assert shared_names([one, other]) == {"Pool": [one, other], "Dial": [one, other]}
    assert shared_names([one]) == {}
    one.write_text("Path = tuple[str, ...]\n")
    assert shared_names([one]) == {"Path": [one]}
