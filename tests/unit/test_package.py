"""Tests of the lock files, the image, the release notes and the version."""

import ast
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from gateway import __version__
from tests.support.files import PYTHON_PATH

ROOT = Path(__file__).parents[2]


def locked(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)(?:\[.*\])?==([^ \\]+)", (ROOT / name).read_text(), re.MULTILINE))


def test_the_lock_file_has_every_dependency_with_a_hash() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found = locked("requirements.lock")
    assert {"pynacl", "google-re2"} <= found.keys()  # The extras `ed25519` and `patterns` require these packages.
    for text in wanted:
        requirement = Requirement(text)
        assert requirement.specifier.contains(found[requirement.name]), requirement
    for name in ("requirements.lock", "requirements-build.lock"):
        blocks = re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())
        assert all("--hash=sha256:" in block for block in blocks if not block.startswith("#"))


def test_the_base_image_is_pinned_by_digest() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=[a-z0-9./:-]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}", "scratch"}


def test_extension_modules_without_their_library_are_not_in_the_image(tmp_path: Path) -> None:
    """For example, the official Python image contains `_tkinter`, but not the Tk library."""
    drop_broken = runpy.run_path(str(ROOT / "tools" / "rootfs.py"))["drop_broken"]
    good, broken = tmp_path / "_good.so", tmp_path / "_tkinter.so"
    library, source = tmp_path / "libgone.so", tmp_path / "empty.c"
    source.write_text("int gone;\n")
    subprocess.run(["gcc", "-shared", "-o", library, source], check=True, timeout=30)
    subprocess.run(["gcc", "-shared", "-o", good, source], check=True, timeout=30)
    linked = ["-Wl,--no-as-needed", f"-L{tmp_path}", "-lgone"]
    subprocess.run(["gcc", "-shared", "-o", broken, source, *linked], check=True, timeout=30)
    library.unlink()
    drop_broken(tmp_path)
    assert (good.exists(), broken.exists()) == (True, False)


def test_the_image_has_bytecode_and_only_docstrings_of_commands(tmp_path: Path) -> None:
    compile_all = runpy.run_path(str(ROOT / "tools" / "rootfs.py"))["compile_all"]
    theirs = tmp_path / "lib" / "theirs.py"
    ours = tmp_path / "site-packages" / "gateway" / "cli" / "ours.py"
    text = '"""Module."""\n\nclass Some:\n    """Class."""\n\ndef what():\n    """Function."""\n    return {}\n'
    for path in (theirs, ours):
        path.parent.mkdir(parents=True)
        path.write_text(text.format("'compiled'"))
    compile_all(tmp_path)
    for path in (theirs, ours):
        path.write_text(text.format("'compiled again'"))
    show = "for each in (theirs, ours): print(each.what(), each.__doc__, each.Some.__doc__, each.what.__doc__)"
    said = subprocess.run(
        [sys.executable, "-c", f"import theirs, ours\n{show}"],
        env={"PYTHONPATH": f"{theirs.parent}:{ours.parent}"}, capture_output=True, text=True, timeout=10, check=True,
    ).stdout  # fmt: skip
    assert said.splitlines() == ["compiled None - None", "compiled Module. Class. Function."]


def test_docstrings_are_dropped_in_every_kind_of_block() -> None:
    drop = runpy.run_path(str(ROOT / "tools" / "rootfs.py"))["_drop_docstrings"]
    blocks = (
        "if a: {}", "if a: pass\nelse: {}", "for a in b: {}", "for a in b: pass\nelse: {}", "while a: {}",
        "with a: {}", "try: {}\nfinally: pass", "try: pass\nexcept A: {}", "try: pass\nexcept* A: {}",
        "try: pass\nexcept A: pass\nelse: {}", "try: pass\nfinally: {}", "match a:\n  case 1: {}", "class A: {}",
        "def a(): {}", "async def a(): {}",
    )  # fmt: skip
    for block in blocks:
        tree = ast.parse(block.replace("{}", "\n   def inner(): 'docstring'"))
        drop(tree)
        assert "docstring" not in ast.unparse(tree), block


def test_gateways_of_tests_run_without_rich() -> None:
    show = "import sys, gateway.ops.logging_setup; print('rich.console' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", show], env={"PYTHONPATH": PYTHON_PATH}, capture_output=True, text=True, timeout=30,
        check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"


def test_release_notes_come_from_the_changelog() -> None:
    oldest = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[-1]
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "release_notes.py", oldest], capture_output=True, text=True,
        timeout=10, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("### Added")
    missing = subprocess.run(
        [sys.executable, ROOT / "tools" / "release_notes.py", "9.9.9"], capture_output=True, text=True, timeout=10,
        check=False,
    )  # fmt: skip
    assert missing.returncode == 1
    assert "renames [Unreleased] to [9.9.9]" in missing.stderr


def test_all_files_have_the_same_version() -> None:
    chart = (ROOT / "charts/gateway/Chart.yaml").read_text()
    reported = re.findall(r"^(?:version|appVersion): (\S+)$", chart, re.MULTILINE)
    reported += re.findall(r"^ARG VERSION=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert len(reported) == 4
    assert set(reported) == {__version__}
