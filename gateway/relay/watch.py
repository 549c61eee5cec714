"""One descriptor's wait for readiness, whose wishes change and may be none."""

from gateway.relay.readiness import GONE, Handler, readiness


class Watch:
    """Registers a descriptor from its creation to `close`, taking it over from whoever watched it before.

    Args:
        fd: The descriptor; it must stay open until `close`.
        handler: Called with what it is ready for.
        mask: What to wait for first.
    """

    __slots__ = ("_fd", "_handler", "_ready", "_registered", "mask")

    def __init__(self, fd: int, handler: Handler, mask: int) -> None:
        self._fd = fd
        self._handler = handler
        self._ready = readiness()
        self._ready.add(fd, handler, mask)
        self._registered = True
        self.mask = mask

    def want(self, mask: int, *, shut: bool) -> None:
        """Wait for something else from now on.

        A socket that nothing is wanted from is still watched for its end, until we have `shut` our side: from
        then on the peer's end is a hang-up, which epoll reports without end, and the socket leaves it.
        """
        if mask == 0 and not shut:
            mask = GONE
        if mask == self.mask:
            return
        if mask == 0:
            self._ready.remove(self._fd)
            self._registered = False
        elif not self._registered:
            self._ready.add(self._fd, self._handler, mask)
            self._registered = True
        else:
            self._ready.modify(self._fd, mask)
        self.mask = mask

    def close(self) -> None:
        """Stop watching, before the descriptor is closed."""
        if self._registered:
            self._ready.remove(self._fd)
            self._registered = False
        self.mask = 0
