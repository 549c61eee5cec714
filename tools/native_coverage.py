"""Measure which lines of the native engine the tests run: `python -m tools.native_coverage [PYTEST_ARGUMENTS]`.

Runs the saved inputs of `tests/fuzz/native/`, and then pytest. Without arguments, pytest runs the unit tests of the
native engine and the saved inputs of `ssh_receive`. A line is covered if at least one of these programs runs it.
"""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from hatch_build import FOLDER, NAME, RELEASE, ROOT, VARIANTS, compile_extension
from tests.fuzz.native.build import Build
from tests.fuzz.native.run import CORPUS

Counts = dict[tuple[str, int], bool]
"""Whether a line, by file name and number, was run."""


def read_counts(folder: Path, counts: Counts) -> None:
    """Add the lines that gcov reports for the object files in `folder`."""
    data = sorted(map(str, folder.glob("*.gcda")))
    command = ["gcov", "--json-format", "--stdout", "--object-directory", str(folder), *data]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)  # noqa: S603 - constants and our files
    for document in done.stdout.splitlines():
        for file in json.loads(document)["files"]:
            path = Path(file["file"])
            if path.parent.name == Path(FOLDER).name:
                for line in file["lines"]:
                    key = path.name, line["line_number"]
                    counts[key] = counts.get(key, False) or line["count"] > 0


def main() -> int:
    """Print the coverage of each file, and the lines that were not run."""
    counts: Counts = {}
    target = ROOT / FOLDER / NAME
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = Build(folder, replay=True, sanitize=False, coverage=True).run()
        subprocess.run([program, *sorted(CORPUS.iterdir())], check=True, capture_output=True)  # noqa: S603 - our program
        read_counts(folder, counts)
    try:
        compile_extension(target, VARIANTS["--coverage"])
        tests = sys.argv[1:] or [
            "tests/unit/_dataplane", "tests/unit/relay/test_native_socket_relay.py", "tests/unit/test_fuzz.py",
            "-k", "dataplane or native_socket_relay or ssh_receive",
        ]  # fmt: skip
        subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT, check=True)  # noqa: S603 - as above
        read_counts(ROOT / FOLDER, counts)
    finally:
        for path in (ROOT / FOLDER).glob("*.gc*"):
            path.unlink()
        compile_extension(target, RELEASE)
    missed: defaultdict[str, list[str]] = defaultdict(list)
    for (file, line), ran in sorted(counts.items()):
        missed[file] += [] if ran else [str(line)]
    for file, lines in missed.items():
        total = sum(name == file for name, _ in counts)
        print(f"{file:20} {100 - 100 * len(lines) / total:5.1f} % of {total:4} lines; not run: {' '.join(lines)}")
    print(f"{'all':20} {100 * sum(counts.values()) / len(counts):5.1f} % of {len(counts):4} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
