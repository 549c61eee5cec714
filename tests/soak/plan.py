"""Defines the parts of a soak: rounds, the state that rounds share, and the results of rounds."""

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
"""Health checks use stream numbers above this value; clients use stream numbers below this value."""


@dataclass(frozen=True)
class Round:
    """Properties of a round.

    Args:
        cipher: The SSH cipher; it decides which data plane carries the channels.
        path: Delay, rate and loss of the path: one of PATHS.
        trouble: How the round disturbs the path: one of TROUBLES.
        seconds: Time in seconds during which clients open new streams.
    """

    cipher: str
    path: str
    trouble: str
    seconds: float


@dataclass
class Bench:
    """The resources and settings that all rounds of a run share.

    Args:
        bastion: The SSH server behind the slow link.
        link: The slow link between this process and the bastion.
        backend: The backend's process, behind the bastion.
        backend_port: The port where the backend listens.
        clients: The process that runs the clients.
        mix: Number of clients of each type.
        pattern: The byte pattern of the run.
        budgets: Window budgets of this process.
        exchanges: Counter of key exchanges.
        chance: Random generator for disturbances.
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
        audit: Results of the invariant checks.
        streams: Number of streams.
        bytes: Bytes that all streams moved.
        redialed: How often the gateway requested a channel again.
        exchanges: Number of key exchanges.
        connections: Maximum number of simultaneous SSH connections.
        waits: Duration of each query in seconds, sorted.
        checks: Duration of each health check in seconds, sorted.
        troubles: How often the round disturbed the path.
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
    """Return one round for each combination of cipher, path and trouble, in random order with alternating ciphers."""
    kinds = [(path, trouble) for path in PATHS for trouble in TROUBLES]
    orders = [chance.sample(kinds, len(kinds)) for _ in instrumentation.CIPHERS]
    return [
        Round(cipher, path, trouble, seconds)
        for row in zip(*orders, strict=True)
        for cipher, (path, trouble) in zip(instrumentation.CIPHERS, row, strict=True)
    ]
