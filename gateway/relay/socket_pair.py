"""Creates socket pairs, so that code that requires a socket can use a connection inside a tunnel."""

import socket
from collections.abc import Callable

from gateway.relay.sockets import tune


def _never_broken() -> bool:
    return False


class SocketPairEnd(socket.socket):
    """One end of a socket pair, which code can use like the socket of a TCP connection.

    On a socket pair, a reset of the tunneled stream looks like end-of-file. `broken` distinguishes the two.
    """

    broken: Callable[[], bool] = staticmethod(_never_broken)
    """Returns whether the tunneled stream ended in a reset. Call it only after end-of-file."""


def socket_pair(backlog: int | None = None) -> tuple[SocketPairEnd, socket.socket]:
    """Create a pair of connected non-blocking sockets.

    The user's socket is for the code that requires a socket. The tunnel's socket is for the code that copies bytes
    between the user's socket and the tunnel.

    Args:
        backlog: Approximate maximum number of bytes that wait to be read from the tunnel's socket. None for the
            kernel's default.

    Returns:
        The user's socket and the tunnel's socket. The caller owns both.
    """
    ours, theirs = socket.socketpair()
    user = SocketPairEnd(fileno=ours.detach())
    if backlog is not None:
        # On unix sockets, the size of the sender's buffer limits the queued data (unix(7)).
        user.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, backlog)
    tune(user)
    tune(theirs)
    return user, theirs
