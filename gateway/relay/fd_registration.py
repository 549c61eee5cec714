"""Registers one socket with the event loop's poller, and changes its event mask."""

import socket

from gateway.relay.dead_peer_detector import DeadPeerDetector, dead_peer_detector
from gateway.relay.event_loop import EventHandler
from gateway.relay.fd_poller import EDGE, ERROR, HANGUP, poller


class FdRegistration:
    """Registers one socket with the running loop's poller. `close` removes the registration.

    If the socket's descriptor is already registered, the new registration replaces the handler and the mask.

    Args:
        sock: The socket. It must stay open until `close` is called.
        handler: Called with the events that occurred.
        mask: The initial event mask.
    """

    __slots__ = ("_detector", "_fd", "_handler", "_poller", "_registered", "_sock", "mask")

    def __init__(self, sock: socket.socket, handler: EventHandler, mask: int) -> None:
        self._fd = fd = sock.fileno()
        self._sock = sock
        self._detector: DeadPeerDetector | None = None
        if sock.family != socket.AF_UNIX:
            self._detector = dead_peer_detector()
            self._detector.watch(sock)
        self._handler = handler
        self._poller = poller()
        self._poller.add(fd, handler, mask)
        self._registered = True
        self.mask = mask

    def set_events(self, mask: int, *, shut: bool) -> None:
        """Set the events to wait for.

        If the mask is empty, the poller still reports hang-ups and errors of a TCP socket. It reports nothing for a
        unix socket, because epoll would report a hang-up as soon as the peer closes, even if unread data remains.

        Args:
            mask: READ, WRITE, both, or 0.
            shut: Whether the write side of the socket has been shut down. If so, epoll reports the peer's normal
                end-of-file as a hang-up, and `is_failure` distinguishes this hang-up from a failure.
        """
        if mask == 0 and self._detector is not None:
            mask = HANGUP | EDGE if shut else HANGUP  # without EDGE, epoll reports the end-of-file repeatedly
        if mask == self.mask:
            return
        if mask == 0:
            self._poller.remove(self._fd)
            self._registered = False
        elif not self._registered:
            self._poller.add(self._fd, self._handler, mask)
            self._registered = True
        else:
            self._poller.modify(self._fd, mask)
        self.mask = mask

    def is_failure(self, event: int) -> bool:
        """Return whether `event` reports a failure of the socket.

        Call this method only after `set_events` with an empty mask. With any other mask, the method returns True for
        every event.
        """
        return bool(event & ERROR) or not self.mask & EDGE

    def close(self) -> None:
        """Remove the registration. Call this before closing the socket."""
        if self._detector is not None:
            self._detector.unwatch(self._sock)
        if self._registered:
            self._poller.remove(self._fd)
            self._registered = False
        self.mask = 0
