"""A slow, long or lossy path on loopback: a TCP proxy with delay, rate, buffer and loss, in a process of its own.

Two TCP connections on loopback stand for one, so loss is what the far side sees of it: a pause of one retransmission
timeout, then everything that had been held up. Nothing is lost for good, unless the connection is cut.
"""

from dataclasses import asdict, dataclass
from typing import Self

from tests.chaos.child import Child


@dataclass(frozen=True)
class Shape:
    """What the path is like.

    Args:
        delay: Seconds each way.
        up: Bytes per second from the clients to the server, all connections together; 0: not limited.
        down: The same from the server to the clients.
        buffer: Bytes that wait before the limit in each direction, all connections together. The sockets of each
            connection are given as much besides, which the kernel doubles.
        loss: The probability that a segment of 1,448 bytes is lost.
        rto: Seconds that its connection then pauses in this direction.
    """

    delay: float = 0.0
    up: float = 0.0
    down: float = 0.0
    buffer: int = 64 * 1024
    loss: float = 0.0
    rto: float = 0.2


@dataclass(frozen=True)
class Figures:
    """What went through so far.

    Args:
        up: Bytes delivered to the server.
        down: Bytes delivered to the clients.
        connections: Accepted.
        open: Open now.
        losses: Pauses that lost segments caused.
        cuts: Connections that were cut.
    """

    up: int
    down: int
    connections: int
    open: int
    losses: int
    cuts: int


class SlowLink:
    """The path, from entering the context to leaving it; it ends with this process in any case.

    Args:
        to: The port of 127.0.0.1 that it leads to.
        shape: What it is like at first.
        seed: For the losses.
    """

    def __init__(self, to: int, shape: Shape | None = None, seed: int = 0) -> None:
        self._shape = shape or Shape()
        self._child = Child("tests.chaos.slow_path", to, seed)
        self.port = 0
        """Where it listens on 127.0.0.1."""

    def __enter__(self) -> Self:
        self._child.__enter__()
        try:
            self.port = int(self._child.ask("listen")["port"])
            self.shape(self._shape)
        except BaseException:
            self._child.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._child.__exit__()

    @property
    def pid(self) -> int:
        """Its process ID."""
        return self._child.pid

    def shape(self, shape: Shape) -> Figures:
        """Make the path like this from now on, for what is not under way yet."""
        return Figures(**self._child.ask("shape", **asdict(shape)))

    def cut(self, count: int = 0) -> Figures:
        """Reset `count` open connections, chosen at random, or all of them."""
        return Figures(**self._child.ask("cut", count=count))

    def hole(self, seconds: float) -> Figures:
        """Let nothing through for `seconds`, in either direction, and answer no new connection."""
        return Figures(**self._child.ask("hole", seconds=seconds))

    def stall(self, seconds: float) -> Figures:
        """Deliver nothing for `seconds`, then all that arrived meanwhile at once, as far as there was room."""
        return Figures(**self._child.ask("stall", seconds=seconds))

    def figures(self) -> Figures:
        """What went through so far."""
        return Figures(**self._child.ask("figures"))
