"""Defines the rounds of the soak test, the resources that all rounds share, and the results of a round."""

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
"""Health checks use stream numbers above this value. Clients use lower stream numbers."""


@dataclass(frozen=True)
class Round:
    """The properties of a round.

    Args:
        cipher: The SSH cipher, which also determines the data plane.
        path: The name, in `PATHS`, of the simulated network.
        trouble: The kind of network faults in this round, from `TROUBLES`.
        seconds: The time in seconds during which clients open new streams.
    """

    cipher: str
    path: str
    trouble: str
    seconds: float


@dataclass
class Bench:
    """The resources and settings that all rounds share.

    Args:
        bastion: The SSH server.
        link: The proxy that simulates a slow network between the gateway and the SSH server.
        backend: The process of the backend, which the gateway reaches through the SSH server.
        backend_port: The port on which the backend listens.
        clients: The process that runs the clients.
        mix: The number of clients of each type.
        pattern: The data of all streams.
        budgets: The budgets for receive windows.
        exchanges: The counter of SSH key exchanges.
        chance: The random number generator for network faults.
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
    """The results of a round.

    Args:
        audit: The results of the invariant checks.
        streams: Number of streams.
        bytes: Number of bytes that the clients sent and received.
        redialed: Number of channel requests that were repeated because their SSH connection did not respond.
        exchanges: Number of SSH key exchanges.
        connections: Maximum number of simultaneous SSH connections.
        waits: The duration of each query in seconds, sorted.
        checks: The duration of each health check in seconds.
        troubles: Number of network faults in this round. A fault that was skipped also counts.
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
    """Return one round for each combination of a cipher, a network, and a kind of network faults.

    The order is random, but the ciphers alternate.
    """
    kinds = [(path, trouble) for path in PATHS for trouble in TROUBLES]
    orders = [chance.sample(kinds, len(kinds)) for _ in instrumentation.CIPHERS]
    return [
        Round(cipher, path, trouble, seconds)
        for row in zip(*orders, strict=True)
        for cipher, (path, trouble) in zip(instrumentation.CIPHERS, row, strict=True)
    ]
