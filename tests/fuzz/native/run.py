"""Fuzz the native engine with libFuzzer: `python -m tests.fuzz.native.run [--distil] [libFuzzer's arguments]`."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.native.build import Build, NoCompilerError

CORPUS = Path(__file__).parents[1] / "corpus/native"
_LIMITS = ["-max_len=256", "-timeout=20", "-rss_limit_mb=2048"]
_CI_RUNS = 50_000
_CI_SECONDS = 20
"""CI stops at the first of these limits. The inputs are the same in each run."""
_PATIENCE = 120
_HASH = re.compile("[0-9a-f]{40}")
"""The name that libFuzzer gives to an input."""


def fuzz(options: list[str]) -> int:
    """Run libFuzzer; return its exit status. New inputs and findings are kept in a directory in /tmp."""
    folder = Path(tempfile.gettempdir()) / f"gateway-fuzz-{os.getuid()}" / "native"
    learned, found = folder / "corpus", folder / "findings"
    for each in (learned, found, CORPUS):
        each.mkdir(parents=True, exist_ok=True)
    program = Build(folder / "build").run()
    if "--distil" in options:
        return _distil(program, learned)
    inputs = [] if any(Path(each).exists() for each in options) else [str(learned), str(CORPUS)]
    command = [str(program), *_LIMITS, f"-artifact_prefix={found}/", *options, *inputs]
    describe = {} if inputs else {"FUZZ_DESCRIBE": "1"}
    return subprocess.run(command, env=os.environ | describe, check=False).returncode


def run_in_ci(folder: Path) -> tuple[str, int]:
    """Fuzz for at most 20 seconds; without clang, only run the saved inputs.

    Args:
        folder: Directory for the program and findings.

    Returns:
        A line to print, and an exit status.
    """
    (folder / "new").mkdir(parents=True)
    limits = ["-seed=1", f"-runs={_CI_RUNS}", f"-max_total_time={_CI_SECONDS}", f"-artifact_prefix={folder}/"]
    try:
        done = _finish([str(Build(folder).run()), *_LIMITS, *limits, str(folder / "new"), str(CORPUS)])
    except NoCompilerError as error:
        return _replay(folder, str(error))
    if done.returncode:
        return done.stderr, 1
    return f"native       {done.stderr.splitlines()[-1]}", 0


def _replay(folder: Path, reason: str) -> tuple[str, int]:
    inputs = sorted(map(str, CORPUS.iterdir()))
    try:
        done = _finish([str(Build(folder, replay=True).run()), *inputs])
    except NoCompilerError as error:
        return f"native       not run: {reason}; {error}", 0
    if done.returncode:
        return done.stderr, 1
    return f"native       {len(inputs)} saved inputs only: {reason}", 0


def _finish(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False)


def _distil(program: Path, learned: Path) -> int:
    """Replace the saved inputs with the smallest subset of the known inputs that has equal coverage."""
    with tempfile.TemporaryDirectory() as fresh:
        inputs = [fresh, str(CORPUS), str(learned)]
        status = subprocess.run(
            [str(program), *_LIMITS, "-set_cover_merge=1", "-use_counters=0", *inputs], check=False
        ).returncode
        if status == 0:
            for path in CORPUS.iterdir():
                if _HASH.fullmatch(path.name):  # a file with another name is a regression test
                    path.unlink()
            shutil.copytree(fresh, CORPUS, dirs_exist_ok=True)
    return status


if __name__ == "__main__":
    try:
        sys.exit(fuzz(sys.argv[1:]))
    except NoCompilerError as missing:
        sys.exit(str(missing))
