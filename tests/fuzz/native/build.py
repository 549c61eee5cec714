"""Build the fuzzer of the native engine: with clang and libFuzzer, or with gcc to run only saved inputs."""

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
    """The compiler is not installed, or it failed. The message contains the reason."""


@dataclass(frozen=True)
class Build:
    """A build of the fuzzer from the C files of this directory and of the native engine.

    Code coverage is measured only in the files of the native engine, so that only the engine guides libFuzzer.

    Args:
        folder: Directory for the object files and the program.
        replay: Whether to build, with gcc, a program that only runs the inputs that are named on its command line.
        sanitize: Whether to use AddressSanitizer and UndefinedBehaviorSanitizer.
        coverage: Whether to measure the code coverage of the engine for gcov. This requires `replay`.
    """

    folder: Path
    replay: bool = False
    sanitize: bool = True
    coverage: bool = False

    def run(self) -> Path:
        """Compile and link all files, and return the path of the program.

        Raises:
            NoCompilerError: The compiler is not installed, or it failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._compile(*(path for path in sorted(ENGINE.glob("*.c")) if not path.name.startswith("module")))
        unused = "mutate.c" if self.replay else "replay.c"
        self._compile(*(path for path in sorted(HERE.glob("*.c")) if path.name != unused), harness=True)
        return self._link()

    def replace(self, source: Path) -> Path:
        """Compile one changed file of the engine, and return the path of the program. Call `run` first.

        Raises:
            NoCompilerError: The compiler is not installed, or it failed.
        """
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
