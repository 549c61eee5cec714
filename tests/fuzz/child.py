"""Run one fuzz target under libFuzzer: `python -m tests.fuzz.child TARGET FOLDER [--fixed] [libFuzzer's arguments]`.

libFuzzer generates the inputs, guided by coverage; with `--fixed`, it only measures the coverage of `fixed.py`.

If an input fails, the program minimizes the input, writes it to FOLDER with a description of the failure, and
continues, so one run can find several defects. If an input crashes the interpreter, hangs, or exhausts the memory,
libFuzzer saves the input, and the run ends.
"""

import importlib
import shlex
import sys
import traceback
from pathlib import Path

import atheris

from tests.fuzz.findings import failure, file_name, minimize, name_of
from tests.fuzz.fixed import inputs
from tests.fuzz.run import CORPUS

_FIXED = "--fixed"
_TURN = 2
"""If a target defines a mutator, libFuzzer's mutator makes every second mutation."""


def main() -> None:
    """Fuzz until the limit in libFuzzer's arguments is reached."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    with atheris.instrument_imports(include=["gateway"]):
        target = importlib.import_module(f"tests.fuzz.targets.{name}")
    options = sys.argv[3:]
    fixed = None
    if _FIXED in options:
        options.remove(_FIXED)
        fixed = inputs(target, [path.read_bytes() for path in sorted((CORPUS / name).iterdir())])
    seen: set[str] = set()

    def test(data: bytes) -> None:
        data = data if fixed is None else next(fixed)
        error = failure(target.check, data)
        if error is not None and (named := name_of(error)) not in seen:
            seen.add(named)
            least = minimize(target.check, data, named, target.UNIT, target.HEAD)
            path = folder / file_name(named)
            path.write_bytes(least)
            trace = "".join(traceback.format_exception(failure(target.check, least) or error))
            path.with_suffix(".txt").write_text(f"{named}\n\n{target.describe(least)}\n\n{trace}")

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        if seed % _TURN == 0:
            return bytes(atheris.Mutate(data, longest))
        return bytes(target.mutate(data, longest, seed))

    options.append(f"-max_len={target.LONGEST}")
    if hasattr(target, "WORDS"):
        words = folder / "words.txt"
        words.write_bytes(b"".join(b'"%s"\n' % _quoted(word) for word in target.WORDS))
        options.append(f"-dict={words}")
    own = {"custom_mutator": mutate} if hasattr(target, "mutate") else {}
    # To merge corpora, libFuzzer runs the first argument again, as a shell command.
    again = shlex.join([sys.executable, "-m", "tests.fuzz.child", name, str(folder)])
    atheris.Setup([again, *options], test, **own)
    atheris.Fuzz()


def _quoted(word: str | bytes) -> bytes:
    """Return `word` in the format of libFuzzer's dictionaries."""
    return b"".join(b"\\x%02x" % byte for byte in (word.encode() if isinstance(word, str) else word))


main()
