"""Simulates a slow or lossy network between clients and a server. A TCP proxy in a separate process delays the data.

The proxy opens a connection to the server for each connection from a client. To simulate a lost segment, the proxy
delivers no data in one direction of a connection for the duration of a TCP retransmission timeout, and then delivers
the delayed data. The proxy loses data only if `cut` resets a connection.
"""

from dataclasses import asdict, dataclass
from typing import Self

from tests.support.child import Child


@dataclass(frozen=True)
class Shape:
    """The properties of the simulated network.

    Args:
        delay: The delay in each direction, in seconds.
        up: Bytes per second from the clients to the server, for all connections together; 0 means unlimited.
        down: Bytes per second from the server to the clients, for all connections together; 0 means unlimited.
        buffer: The maximum number of bytes that wait for the rate limit in each direction, for all connections
            together. The proxy also sets the sizes of its socket buffers to this number, which Linux doubles
            (socket(7)).
        loss: The probability that a segment of 1,448 bytes is lost.
        rto: The duration of the pause that simulates a lost segment, in seconds. The pause affects one direction of
            one connection.
    """

    delay: float = 0.0
    up: float = 0.0
    down: float = 0.0
    buffer: int = 64 * 1024
    loss: float = 0.0
    rto: float = 0.2


@dataclass(frozen=True)
class Figures:
    """Statistics of the proxy since its start.

    Args:
        up: Number of bytes that the proxy sent to the server.
        down: Number of bytes that the proxy sent to the clients.
        connections: Number of accepted connections.
        open: Number of connections that are open now.
        losses: Number of pauses that simulated lost segments.
        cuts: Number of connections that `cut` has reset.
    """

    up: int
    down: int
    connections: int
    open: int
    losses: int
    cuts: int


class SlowLink:
    """A simulated network. Its proxy runs until the `with` block ends or this process exits.

    Args:
        to: The port of the server on 127.0.0.1.
        shape: The initial properties of the simulated network.
        seed: The random seed for the losses, and for the connections that `cut` chooses.
    """

    def __init__(self, to: int, shape: Shape | None = None, seed: int = 0) -> None:
        self._shape = shape or Shape()
        self._child = Child("tests.support.slow_path", to, seed)
        self.port = 0
        """The port on 127.0.0.1 to which the clients connect."""

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
        """Change the properties of the simulated network. Data that the proxy has already read keeps its delay."""
        return Figures(**self._child.ask("shape", **asdict(shape)))

    def cut(self, count: int = 0) -> Figures:
        """Reset `count` open connections, chosen at random. If `count` is 0, reset all open connections."""
        return Figures(**self._child.ask("cut", count=count))

    def hole(self, seconds: float) -> Figures:
        """Deliver no data and accept no connections for `seconds` seconds."""
        return Figures(**self._child.ask("hole", seconds=seconds))

    def stall(self, seconds: float) -> Figures:
        """Deliver no data on open connections for `seconds` seconds; then deliver all data whose delay has passed."""
        return Figures(**self._child.ask("stall", seconds=seconds))

    def figures(self) -> Figures:
        return Figures(**self._child.ask("figures"))
