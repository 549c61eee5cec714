"""Fuzz the native engine with libFuzzer: `python -m tests.fuzz.native.run [--distil] [libFuzzer's arguments]`.

With `--distil`, replace the saved inputs with a minimal set instead.
"""

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
"""Time limit of the fuzzer in CI, in seconds. The fuzzer also stops after `_CI_RUNS` inputs."""
_PATIENCE = 120
_HASH = re.compile("[0-9a-f]{40}")
"""Pattern for the name of a file in which libFuzzer saves an input: the SHA-1 of the input."""


def fuzz(options: list[str]) -> int:
    """Run libFuzzer, and return its exit status. libFuzzer saves new and failing inputs in a directory in /tmp."""
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
    """Fuzz the native engine for at most 20 seconds. Without clang, only run the saved inputs.

    Args:
        folder: Directory for the compiled fuzzer, and for new and failing inputs.

    Returns:
        The text to print, and the exit status.
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
    """Replace the saved inputs with a minimal set that covers the same code as all saved and new inputs."""
    with tempfile.TemporaryDirectory() as fresh:
        inputs = [fresh, str(CORPUS), str(learned)]
        status = subprocess.run(
            [str(program), *_LIMITS, "-set_cover_merge=1", "-use_counters=0", *inputs], check=False
        ).returncode
        if status == 0:
            for path in CORPUS.iterdir():
                if _HASH.fullmatch(path.name):  # keep regression tests, which have descriptive names
                    path.unlink()
            shutil.copytree(fresh, CORPUS, dirs_exist_ok=True)
    return status


if __name__ == "__main__":
    try:
        sys.exit(fuzz(sys.argv[1:]))
    except NoCompilerError as missing:
        sys.exit(str(missing))
