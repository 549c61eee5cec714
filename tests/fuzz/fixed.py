"""Run a fuzz target with the same inputs in each run of CI: `python -m tests.fuzz.fixed TARGET FOLDER COUNT`.

The inputs do not depend on code coverage or on the machine's speed. The program does not measure code coverage, so
each input takes 5 to 20 times less time than in `tests.fuzz.child`. The program writes failing inputs to FOLDER. The
program also writes each input to the file FOLDER/current before the input runs. If an input crashes the process, or
takes longer than 60 s, this file remains.
"""

import faulthandler
import importlib
import itertools
import random
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from tests.fuzz.findings import check_input

CORPUS = Path(__file__).parent / "corpus"
_SEED = 1
_MOST = 8
_HANG = 60
"""Time limit for one input, in seconds."""
_MEMORY = 4 << 30
"""The maximum address space of the process, in bytes."""


def inputs(target: ModuleType, corpus: Sequence[bytes]) -> Iterator[bytes]:
    """Yield every input of the corpus, and then an endless sequence of mutations of these inputs.

    Args:
        target: A module of `tests.fuzz.targets`.
        corpus: The saved inputs of the target, in a fixed order.
    """
    yield from corpus
    rng = random.Random(_SEED)
    words = [word.encode() if isinstance(word, str) else word for word in getattr(target, "WORDS", ())]
    while True:
        data = rng.choice(corpus)
        for _ in range(rng.randrange(1, _MOST)):
            if hasattr(target, "mutate"):
                data = target.mutate(data, target.LONGEST, rng.getrandbits(32))
            else:
                data = _mutated(data, rng, words, rng.choice(corpus))[: target.LONGEST]
        yield data


def _mutated(data: bytes, rng: random.Random, words: Sequence[bytes], other: bytes) -> bytes:
    """Return `data` with one random change. The change can insert one of `words` or the end of `other`."""
    start, stop = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    near = min(stop, start + rng.randrange(9))
    match rng.randrange(6):
        case 0:
            return data[:start] + data[near:]
        case 1:
            return data[:stop] + data[start:stop] + data[stop:]
        case 2 if words:
            return data[:start] + rng.choice(words) + data[near:]
        case 3:
            return data[:start] + other[len(other) * start // (len(data) + 1) :]
        case 4 if start < len(data):
            return data[:start] + bytes([data[start] ^ 1 << rng.randrange(8)]) + data[start + 1 :]
        case _:
            return data[:start] + rng.randbytes(rng.randrange(5)) + data[near:]


def run(target: ModuleType, corpus: Sequence[bytes], folder: Path, count: int) -> None:
    """Run a fuzz target with a number of inputs, and write the failing inputs to a directory.

    Args:
        target: A module of `tests.fuzz.targets`.
        corpus: The saved inputs of the target, in a fixed order.
        folder: The directory for failing inputs and for the current input.
        count: The number of inputs.
    """
    seen: set[str] = set()
    current = folder / "current"
    for data in itertools.islice(inputs(target, corpus), count):
        current.write_bytes(data)
        faulthandler.dump_traceback_later(_HANG, exit=True)
        try:
            check_input(target, data, folder, seen)
        finally:
            faulthandler.cancel_dump_traceback_later()
    current.unlink()


def main() -> None:
    name, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    faulthandler.enable()
    corpus = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    run(importlib.import_module(f"tests.fuzz.targets.{name}"), corpus, folder, count)


if __name__ == "__main__":
    main()
