"""Build the harness of the engine in C: with clang, for libFuzzer, or with gcc, to run saved inputs only."""

import subprocess
from pathlib import Path

from tools.newest_program import newest_program

HERE = Path(__file__).parent
ENGINE = HERE.parents[2] / "gateway/_dataplane"
_SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
_FLAGS = [
    "-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-fno-omit-frame-pointer", "-pthread", "-Wall", "-Wextra",
    "-include", str(HERE / "fake_calls.h"), f"-I{ENGINE}", *_SANITIZE,
]  # fmt: skip
_COVERAGE = "-fsanitize=fuzzer-no-link"


class NoCompilerError(Exception):
    """A compiler that the build needs is not installed, or failed. The message has the reason."""


def build(folder: Path, *, replay: bool = False) -> Path:
    """Compile the harness and the engine; return the program.

    Only the engine is instrumented for coverage, so that the states of the engine guide the fuzzer.

    Args:
        folder: Directory for the object files and the program.
        replay: Whether the program only runs the inputs that it gets as arguments. It then needs no libFuzzer.

    Raises:
        NoCompilerError: There is no suitable compiler, or it failed.
    """
    name = "gcc" if replay else "clang"
    compiler = newest_program(name)
    if compiler is None:
        raise NoCompilerError(f"{name} is not installed (as root, `tools/packages.sh native` installs it)")
    folder.mkdir(parents=True, exist_ok=True)
    engine = [str(path) for path in sorted(ENGINE.glob("*.c")) if not path.name.startswith("module")]
    unused = "mutate.c" if replay else "replay.c"
    harness = [str(path) for path in sorted(HERE.glob("*.c")) if path.name != unused]
    program = folder / "harness"
    link = ["-Wl,--wrap=cipher_type_named", "-lcrypto", "-o", str(program)]
    _run([compiler, *_FLAGS, *([] if replay else [_COVERAGE]), "-c", *engine], folder)
    _run([compiler, *_FLAGS, "-DGATEWAY_FUZZ_HARNESS", "-c", *harness], folder)
    objects = [f"{Path(source).stem}.o" for source in (*engine, *harness)]
    _run([compiler, *_SANITIZE, *([] if replay else ["-fsanitize=fuzzer"]), "-pthread", *objects, *link], folder)
    return program


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=600)
    except subprocess.CalledProcessError as error:
        raise NoCompilerError(f"{command[0]} failed: {error.stderr.strip()}") from None
