"""The counters of a socket that show whether a FIN has arrived, while data and a FIN arrive."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.requirements import need_data_plane
from tests.unit._dataplane import arriving_main

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_data_plane()
    made = tmp_path_factory.mktemp("library") / "arriving.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", made, HERE / "arriving.c"], check=True, timeout=60)
    return made


@pytest.mark.parametrize(("fin", "answer"), [(0, 1), (1, 0)], ids=["a byte arrives", "a FIN arrives"])
def test_an_arrival_within_the_system_calls_is_no_reset(library: Path, fin: int, answer: int) -> None:
    preloaded = " ".join([os.environ.get("LD_PRELOAD", ""), str(library)]).strip()
    done = subprocess.run(
        [sys.executable, "-m", arriving_main.__name__, str(library), str(fin)],
        env={**os.environ, "LD_PRELOAD": preloaded}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.split() == ["finished", str(arriving_main.SIZE), str(answer), "1"]
