"""Every saved input of the fuzzer passes; see docs/testing.md."""

import importlib
from pathlib import Path

import pytest

from tests.fuzz.run import CORPUS, TARGETS

INPUTS = [(name, path) for name in TARGETS for path in sorted((CORPUS / name).iterdir())]


@pytest.mark.parametrize(("name", "path"), INPUTS, ids=[f"{name}-{path.name}" for name, path in INPUTS])
def test_a_saved_input_passes(name: str, path: Path) -> None:
    importlib.import_module(f"tests.fuzz.targets.{name}").check(path.read_bytes())


def test_the_corpus_is_small() -> None:
    assert {path.parent.name for _, path in INPUTS} == set(TARGETS)
    assert sum(path.stat().st_size for _, path in INPUTS) < 200_000
