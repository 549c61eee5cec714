"""Socket pair, one end of which acts as a connection through a tunnel."""

import socket
from collections.abc import Callable

from gateway.relay.sockets import tune


def _never_broken() -> bool:
    return False


class PairSocket(socket.socket):
    """The user's end of a socket pair.

    On a socket pair, a reset looks like end-of-file. After reading end-of-file, call `broken` to distinguish them.
    """

    broken: Callable[[], bool] = staticmethod(_never_broken)
    """Returns whether the tunneled stream ended in a reset. Valid after end-of-file."""


def socket_pair(backlog: int | None = None) -> tuple[PairSocket, socket.socket]:
    """Create a pair of connected non-blocking sockets.

    Args:
        backlog: Approximate limit, in bytes, on data from the user that the tunnel has not read; None: the kernel's
            default.

    Returns:
        The user's end and the tunnel's end. The caller owns both.
    """
    ours, theirs = socket.socketpair()
    user = PairSocket(fileno=ours.detach())
    if backlog is not None:
        # On unix sockets the kernel limits queued data by the sender's buffer (unix(7)).
        user.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, backlog)
    tune(user)
    tune(theirs)
    return user, theirs
