"""Parts of a soak: rounds, their shared state, and their results."""

import random
from dataclasses import dataclass, field

from gateway.demo.sshd import Bastion
from tests.soak import instrumentation
from tests.soak.audit import Audit
from tests.soak.streams import Pattern
from tests.support.child import Child
from tests.support.slow_link import Shape, SlowLink

PATHS = {
    "near": Shape(up=30e6, down=30e6, buffer=256 << 10),
    "long": Shape(delay=0.1, up=20e6, down=20e6, buffer=512 << 10),
    "lossy": Shape(delay=0.03, up=5e6, down=10e6, loss=0.001),
    "slow": Shape(delay=0.02, up=2e6, down=4e6),
}
TROUBLES = ("steady", "stalls", "cuts")
_FIRST_CHECK = 1 << 31
"""The numbers of the checks' streams; clients use smaller ones."""


@dataclass(frozen=True)
class Round:
    """Properties of a round.

    Args:
        cipher: Decides who carries the channels.
        path: One of PATHS.
        trouble: One of TROUBLES.
        seconds: With clients that begin new streams.
    """

    cipher: str
    path: str
    trouble: str
    seconds: float


@dataclass
class Bench:
    """State that lasts the whole run.

    Args:
        bastion: Behind the slow link.
        link: The slow link.
        backend: The process behind the bastion.
        backend_port: Where it listens.
        clients: The process with the clients.
        mix: How many clients of each type.
        pattern: The bytes of the run.
        budgets: Of this process.
        exchanges: Counts key exchanges.
        chance: Chooses troubles.
    """

    bastion: Bastion
    link: SlowLink
    backend: Child
    backend_port: int
    clients: Child
    mix: dict[str, int]
    pattern: Pattern
    budgets: instrumentation.Budgets
    exchanges: instrumentation.Exchanges
    chance: random.Random
    checks: int = _FIRST_CHECK


@dataclass
class Outcome:
    """Results of a round.

    Args:
        audit: What was looked at inside.
        streams: How many there were.
        bytes: Moved by them.
        redialed: How often a channel was asked for again.
        exchanges: Of keys.
        connections: Most at once.
        waits: Seconds that each query took, sorted.
        checks: The same of each check.
        troubles: How often the path was disturbed.
    """

    audit: Audit
    streams: int = 0
    bytes: int = 0
    redialed: int = 0
    exchanges: int = 0
    connections: int = 0
    waits: list[float] = field(default_factory=list)
    checks: list[float] = field(default_factory=list)
    troubles: int = 0


def rounds(chance: random.Random, seconds: float) -> "list[Round]":
    """Return each combination once, in random order, with alternating ciphers."""
    kinds = [(path, trouble) for path in PATHS for trouble in TROUBLES]
    orders = [chance.sample(kinds, len(kinds)) for _ in instrumentation.CIPHERS]
    return [
        Round(cipher, path, trouble, seconds)
        for row in zip(*orders, strict=True)
        for cipher, (path, trouble) in zip(instrumentation.CIPHERS, row, strict=True)
    ]
