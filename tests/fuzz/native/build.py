"""Build the native engine's fuzzer: with clang for libFuzzer, or with gcc to run only saved inputs."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.newest_program import newest_program

HERE = Path(__file__).parent
ENGINE = HERE.parents[2] / "gateway/_dataplane"
_FLAGS = [
    "-std=c11", "-D_GNU_SOURCE", "-g", "-pthread", "-Wall", "-Wextra", "-include", str(HERE / "fake_calls.h"),
    f"-I{ENGINE}", f"-I{HERE}",
]  # fmt: skip
_WRAPPED = [
    f"-Wl,--wrap={name}" for name in ("cipher_type_named", "pending_add", "pair_create", "joined_add", "joined_end")
]
_SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-O2"]


class NoCompilerError(Exception):
    """A compiler that the build needs is not installed, or failed. The message has the reason."""


@dataclass(frozen=True)
class Build:
    """A build of the harness and the engine.

    Only the engine is instrumented for coverage, so that the states of the engine guide the fuzzer.

    Args:
        folder: Directory for the object files and the program.
        replay: Whether the program only runs the inputs that it gets as arguments. It is then built with gcc.
        sanitize: Whether to use AddressSanitizer and UndefinedBehaviorSanitizer.
        coverage: Whether to count the lines of the engine that are run, for gcov.
    """

    folder: Path
    replay: bool = False
    sanitize: bool = True
    coverage: bool = False

    def run(self) -> Path:
        """Compile and link everything; return the program.

        Raises:
            NoCompilerError: There is no suitable compiler, or the compiler failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._compile(*(path for path in sorted(ENGINE.glob("*.c")) if not path.name.startswith("module")))
        unused = "mutate.c" if self.replay else "replay.c"
        self._compile(*(path for path in sorted(HERE.glob("*.c")) if path.name != unused), harness=True)
        return self._link()

    def replace(self, source: Path) -> Path:
        """Compile a changed file of the engine, after `run`; return the program. Raises errors like `run`."""
        self._compile(source)
        return self._link()

    def _compile(self, *sources: Path, harness: bool = False) -> None:
        options = [*_FLAGS, *(_SANITIZE if self.sanitize else ["-O0"])]
        if harness:
            options.append("-DGATEWAY_FUZZ_HARNESS")
        elif not self.replay:
            options.append("-fsanitize=fuzzer-no-link")
        elif self.coverage:
            options.append("--coverage")
        self._gcc_or_clang(*options, "-c", *map(str, sources))

    def _link(self) -> Path:
        program = self.folder / "harness"
        options = [*(_SANITIZE if self.sanitize else []), *([] if self.replay else ["-fsanitize=fuzzer"]), "-pthread"]
        objects = sorted(path.name for path in self.folder.glob("*.o"))
        options += ["--coverage"] if self.coverage else []
        self._gcc_or_clang(*options, *objects, *_WRAPPED, "-lcrypto", "-o", str(program))
        return program

    def _gcc_or_clang(self, *arguments: str) -> None:
        name = "gcc" if self.replay else "clang"
        compiler = newest_program(name)
        if compiler is None:
            raise NoCompilerError(f"{name} is not installed (as root, `tools/packages.sh native` installs it)")
        try:
            subprocess.run(
                [compiler, *arguments], cwd=self.folder, check=True, capture_output=True, text=True, timeout=600
            )
        except subprocess.CalledProcessError as error:
            raise NoCompilerError(f"{name} failed: {error.stderr.strip()}") from None
