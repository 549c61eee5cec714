"""Check the native engine with GCC's static analyzer and clang-tidy: `python -m tools.lint_native`."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator

from hatch_build import FLAGS, FOLDER, ROOT
from tools.newest_program import newest_program


def commands(source: str) -> Iterator[tuple[str, list[str] | None]]:
    """Yield the name of each program, and its command for one file; None if the program is not installed."""
    flags = [*FLAGS, f"-I{sysconfig.get_path('include')}"]
    gcc, tidy = shutil.which("gcc"), newest_program("clang-tidy")
    output = ["-c", source, "-o", os.devnull]
    yield "gcc", [gcc, *flags, "-O1", "-fanalyzer", "-Werror", *output] if gcc else None
    yield "clang-tidy", [tidy, "--quiet", source, "--", *flags] if tidy else None


def main() -> int:
    """Check every file. Return 1 if there is a warning."""
    failed = False
    missing: set[str] = set()
    for path in sorted((ROOT / FOLDER).glob("*.c")):
        for name, command in commands(str(path.relative_to(ROOT))):
            if command is None:
                missing.add(name)
                continue
            done = subprocess.run(  # noqa: S603 - the arguments are constants and names of our files
                command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
            )
            if done.returncode:
                failed = True
                print(f"{name}: {path.name}\n{done.stdout}{done.stderr}")
    for name in sorted(missing):
        print(f"{name} is not installed, so its checks are skipped (as root, `tools/packages.sh native` installs it)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
