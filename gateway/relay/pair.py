"""A socket pair that stands for a connection through a tunnel."""

import socket
from collections.abc import Callable

from gateway.relay.sockets import tune


def _whole() -> bool:
    return False


class PairSocket(socket.socket):
    """The user's end of a pair.

    A socket pair shows a reset as an end of the stream: whoever reads to the end asks `broken` which it was.
    """

    broken: Callable[[], bool] = staticmethod(_whole)
    """Whether the stream broke off, once it has ended."""


def pair(backlog: int | None = None) -> tuple[PairSocket, socket.socket]:
    """Make a pair of connected non-blocking sockets: the user's end, and the tunnel's.

    Args:
        backlog: Bytes, roughly, that wait between the user and the tunnel at most; None: the kernel's default.
    """
    ours, theirs = socket.socketpair()
    user = PairSocket(fileno=ours.detach())
    if backlog is not None:
        user.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, backlog
        )  # of unix(7): there it is the sender's that counts
    tune(user)
    tune(theirs)
    return user, theirs
