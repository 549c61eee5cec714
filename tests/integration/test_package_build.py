"""Builds the wheel and the source distribution, with and without a compiler."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.files import REPOSITORY as ROOT
from tests.support.requirements import need_data_plane

pytestmark = pytest.mark.integration


def test_wheel_and_sdist_are_reproducible(tmp_path: Path) -> None:
    digests = []
    for at in ("one", "two"):
        folder = tmp_path / at
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, timeout=60,
            capture_output=True,
        )  # fmt: skip
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
    assert digests[0] == digests[1]
    assert len(digests[0]) == 2
    need_data_plane()
    (wheel,) = (tmp_path / "one").glob("*-cp311-abi3-linux_*.whl")
    assert "gateway/_dataplane/engine.abi3.so" in files_of_the_engine(wheel)


def files_of_the_engine(wheel: Path) -> list[str]:
    return sorted(name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("gateway/_dataplane/"))


def test_the_package_is_built_without_a_compiler(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True,
        timeout=60, capture_output=True, text=True, env=os.environ | {"CC": "/nowhere/cc"},
    )  # fmt: skip
    assert (done.stdout + done.stderr).count("The data plane in C is not built") == 1
    (wheel,) = tmp_path.iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    assert files_of_the_engine(wheel) == [f"gateway/_dataplane/{name}" for name in ("__init__.py", "engine.pyi")]
