"""Simulates a slow, long or lossy path with a TCP proxy on loopback, which runs in a separate process.

Two TCP connections on loopback represent one connection over the path. The proxy simulates a lost segment as its
receiver sees it: a pause of one retransmission timeout, and then all delayed data. Only `cut` loses data.
"""

from dataclasses import asdict, dataclass
from typing import Self

from tests.support.child import Child


@dataclass(frozen=True)
class Shape:
    """Properties of the path.

    Args:
        delay: The delay in each direction, in seconds.
        up: Bytes per second from the clients to the server, for all connections together; 0 means unlimited.
        down: Bytes per second from the server to the clients, for all connections together; 0 means unlimited.
        buffer: The maximum number of bytes in the queue of each direction, for all connections together. Each socket
            also has a buffer of this size, which the kernel doubles.
        loss: The probability that a segment of 1,448 bytes is lost.
        rto: The seconds for which the direction of a connection pauses after a loss.
    """

    delay: float = 0.0
    up: float = 0.0
    down: float = 0.0
    buffer: int = 64 * 1024
    loss: float = 0.0
    rto: float = 0.2


@dataclass(frozen=True)
class Figures:
    """Totals of the path.

    Args:
        up: Bytes delivered to the server.
        down: Bytes delivered to the clients.
        connections: Number of accepted connections.
        open: Number of open connections.
        losses: Number of pauses for lost segments.
        cuts: Number of connections that `cut` has reset.
    """

    up: int
    down: int
    connections: int
    open: int
    losses: int
    cuts: int


class SlowLink:
    """A slow path that runs until its context exits; if this process exits first, the path stops too.

    Args:
        to: The port on 127.0.0.1 to which the path forwards.
        shape: The initial properties of the path.
        seed: The seed of the random losses.
    """

    def __init__(self, to: int, shape: Shape | None = None, seed: int = 0) -> None:
        self._shape = shape or Shape()
        self._child = Child("tests.support.slow_path", to, seed)
        self.port = 0
        """The port of the path on 127.0.0.1."""

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
        """The process ID of the proxy."""
        return self._child.pid

    def shape(self, shape: Shape) -> Figures:
        """Change the properties of the path for later data; the delay of data in flight does not change."""
        return Figures(**self._child.ask("shape", **asdict(shape)))

    def cut(self, count: int = 0) -> Figures:
        """Reset `count` open connections, chosen at random. If `count` is 0, reset all open connections."""
        return Figures(**self._child.ask("cut", count=count))

    def hole(self, seconds: float) -> Figures:
        """Block all data in both directions, and accept no connections, for `seconds`."""
        return Figures(**self._child.ask("hole", seconds=seconds))

    def stall(self, seconds: float) -> Figures:
        """Deliver nothing for `seconds`; then deliver all buffered data without delay."""
        return Figures(**self._child.ask("stall", seconds=seconds))

    def figures(self) -> Figures:
        """Return the current totals of the path."""
        return Figures(**self._child.ask("figures"))
