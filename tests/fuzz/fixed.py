"""Generate the same inputs in each run of CI. The inputs do not depend on coverage or on the machine's speed."""

import random
from collections.abc import Iterator, Sequence
from types import ModuleType

_SEED = 1
_MOST = 8


def inputs(target: ModuleType, corpus: Sequence[bytes]) -> Iterator[bytes]:
    """Yield every input of the corpus, and then an endless sequence of mutations of these inputs.

    Args:
        target: One of `tests.fuzz.targets`.
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
    """Return `data` with one part removed, repeated, or replaced by a word, random bytes, or a part of `other`."""
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
