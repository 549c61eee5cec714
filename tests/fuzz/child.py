"""Run one fuzz target under libFuzzer: `python -m tests.fuzz.child TARGET FOLDER [libFuzzer's arguments]`.

libFuzzer generates the inputs, guided by code coverage.

If an input fails, the program minimizes the input, writes it to FOLDER with a description of the failure, and
continues. One run can therefore find several defects. If an input crashes the interpreter, hangs, or exhausts the
memory, libFuzzer saves the input, and the run ends.
"""

import importlib
import shlex
import sys
from pathlib import Path

import atheris

from tests.fuzz.findings import check_input

_TURN = 2
"""If a fuzz target defines `mutate`, on average one in `_TURN` mutations uses libFuzzer's mutator instead."""


def main() -> None:
    """Fuzz until the limit in libFuzzer's arguments is reached."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    with atheris.instrument_imports(include=["gateway"]):
        target = importlib.import_module(f"tests.fuzz.targets.{name}")
    options = sys.argv[3:]
    seen: set[str] = set()

    def test(data: bytes) -> None:
        check_input(target, data, folder, seen)

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
    # To merge corpora, libFuzzer starts this program again: it runs the first argument as a shell command.
    again = shlex.join([sys.executable, "-m", "tests.fuzz.child", name, str(folder)])
    atheris.Setup([again, *options], test, **own)
    atheris.Fuzz()


def _quoted(word: str | bytes) -> bytes:
    """Return `word` in the format of libFuzzer's dictionaries."""
    return b"".join(b"\\x%02x" % byte for byte in (word.encode() if isinstance(word, str) else word))


main()
