"""One descriptor's wait for readiness, whose wishes change and may be none."""

import socket

from gateway.relay.readiness import EDGE, ERROR, GONE, WRITE, Handler, readiness
from gateway.relay.slow import SlowPeers, slow_peers


class Watch:
    """Registers a socket from its creation to `close`, taking it over from whoever watched it before.

    Args:
        sock: It must stay open until `close`.
        handler: Called with what it is ready for.
        mask: What to wait for first.
    """

    __slots__ = ("_fd", "_handler", "_ready", "_registered", "_slow", "mask")

    def __init__(self, sock: socket.socket, handler: Handler, mask: int) -> None:
        self._fd = fd = sock.fileno()
        self._slow: SlowPeers | None = slow_peers() if sock.family != socket.AF_UNIX else None
        self._handler = handler
        self._ready = readiness()
        self._ready.add(fd, handler, mask)
        self._registered = True
        self.mask = mask

    def want(self, mask: int, *, shut: bool) -> None:
        """Wait for something else from now on.

        A TCP socket that nothing is wanted from is still watched for its failure. Once our side is `shut`, the peer's
        ordinary end is a hang-up to epoll, which would report it without end: then only its arrival is reported, and
        `failed` tells the two apart. A unix socket hangs up at any end, also before the last bytes are read, so it is
        not watched at all.

        Args:
            mask: READ and WRITE, or 0.
            shut: Whether our side of the socket is shut.
        """
        if mask == 0 and self._slow is not None:
            mask = GONE | EDGE if shut else GONE
        if mask == self.mask:
            return
        if self._slow is not None and (mask ^ self.mask) & WRITE:
            (self._slow.bear_with if mask & WRITE else self._slow.expect_again)(self._fd)
        if mask == 0:
            self._ready.remove(self._fd)
            self._registered = False
        elif not self._registered:
            self._ready.add(self._fd, self._handler, mask)
            self._registered = True
        else:
            self._ready.modify(self._fd, mask)
        self.mask = mask

    def failed(self, event: int) -> bool:
        """Whether `event`, which came while neither READ nor WRITE was wanted, is the socket's failure."""
        return bool(event & ERROR) or not self.mask & EDGE

    def close(self) -> None:
        """Stop watching, before the socket is closed."""
        if self._slow is not None and self.mask & WRITE:
            self._slow.expect_again(self._fd)
        if self._registered:
            self._ready.remove(self._fd)
            self._registered = False
        self.mask = 0
