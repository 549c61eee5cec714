"""Sets options of sockets, such as keepalive, binds unix sockets, and closes or resets sockets."""

import contextlib
import errno
import os
import socket
import stat
import struct
from asyncio.trsock import TransportSocket
from pathlib import Path
from typing import NamedTuple

_LINGER_NOW = struct.pack("ii", 1, 0)
_LINGER_NOT = struct.pack("ii", 0, 0)
KEEPALIVE_IDLE = 30
KEEPALIVE_INTERVAL = 10
KEEPALIVE_COUNT = 3
USER_TIMEOUT_MS = 60_000
"""TCP_USER_TIMEOUT, in milliseconds: the time for which sent data can stay unacknowledged before the kernel closes
the connection (RFC 5482)."""
TCP_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS),
)
"""The options of each TCP socket to a client or target: level, name and value."""


def tune(sock: socket.socket) -> None:
    """Make `sock` non-blocking. If it is a TCP socket, also call `tune_tcp`."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        tune_tcp(sock)


def tune_tcp(sock: socket.socket) -> None:
    """Set TCP_NODELAY, keepalive and TCP_USER_TIMEOUT of a TCP socket."""
    for option in TCP_OPTIONS:
        sock.setsockopt(*option)


_TCP_RTO_MAX_MS = 44
"""A socket option of Linux 6.15 and later. Python's `socket` module does not define it."""
_RTO_MAX_MS = 2000


def cap_retransmit_interval(sock: socket.socket) -> None:
    """Limit the retransmission timeout to two seconds, if the kernel supports it.

    By default, TCP doubles the timeout after each retransmission. After an outage, a connection can therefore stay
    idle for as long as the outage lasted.
    """
    with contextlib.suppress(OSError):  # an older kernel, or not a TCP socket
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, _RTO_MAX_MS)


NOTSENT_LOWAT = 128 * 1024
"""Default limit, in bytes, on unsent data of an SSH connection in the kernel (TCP_NOTSENT_LOWAT)."""


def limit_unsent(sock: socket.socket, backlog: int = NOTSENT_LOWAT) -> None:
    """Limit unsent data in the kernel, so that urgent data does not queue behind it (tcp(7), TCP_NOTSENT_LOWAT).

    Args:
        sock: Any socket. If it is not a TCP socket, it is left unchanged.
        backlog: Maximum number of bytes that wait in the kernel before they are sent for the first time.
    """
    with contextlib.suppress(OSError):  # not a TCP socket
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, backlog)


def reset(sock: socket.socket) -> None:
    """Close `sock` with a TCP reset, so that the peer gets an error instead of end-of-file.

    A unix socket is closed normally, because the kernel ignores SO_LINGER for unix sockets.
    """
    if sock.fileno() < 0:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOW)
    sock.close()


def reset_on_process_exit(listener: socket.socket) -> None:
    """Make the kernel reset connections that `listener` accepts if this process is killed.

    Otherwise, the kernel closes the sockets of a killed process with a FIN, which looks like normal end-of-file.
    Accepted sockets inherit the option. `close_gracefully` reverts the option for one socket.
    """
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOW)


def deliver_after_close(sock: socket.socket) -> None:
    """Make the kernel deliver the data in the send buffer after `sock` is closed. Reverts `reset_on_process_exit`."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def close_gracefully(sock: socket.socket) -> None:
    """Close `sock` with a FIN. The kernel first delivers the data in the send buffer."""
    deliver_after_close(sock)
    sock.close()


def was_reset(sock: socket.socket, error: OSError | None) -> bool:
    """Return whether the peer of a failed socket reset the connection before it sent end-of-file.

    EPIPE does not count as a reset, because it means that the peer had already sent end-of-file.

    Args:
        sock: The failed socket.
        error: The error that a system call raised. If it is None, this function reads SO_ERROR.
    """
    code = error.errno if error is not None else sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return code not in (0, errno.EPIPE)


def shutdown_write(sock: socket.socket) -> None:
    """Shut down the write side of `sock`. Do nothing if the connection has already failed."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return


_UCRED = struct.Struct("iII")
"""`struct ucred` (unix(7)): process ID, user ID, group ID."""


class PeerCredentials(NamedTuple):
    """The user, group and process that connected to a unix socket (unix(7), SO_PEERCRED)."""

    pid: int
    """Process ID of the peer; 0 if the peer is in a PID namespace that is not visible to this process."""
    uid: int
    gid: int


def peer_of(sock: socket.socket | TransportSocket) -> PeerCredentials | None:
    """Return the credentials of a unix socket's peer; None if `sock` is closed or is not a unix socket."""
    if sock.family != socket.AF_UNIX:
        return None
    try:
        return PeerCredentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
    except OSError:
        return None


def bind_unix(path: Path, mode: int) -> socket.socket:
    """Bind a non-blocking unix socket at `path`. Replace a stale socket file, on which no process listens.

    Args:
        path: Where to create the socket file.
        mode: The permissions of the socket file.

    Returns:
        The bound socket, which does not listen yet. The caller owns it.

    Raises:
        OSError: `path` exists and is not a socket, another process listens on it, or the directory is not writable.
    """
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX)
    before = os.umask(0o777 & ~mode)
    try:
        sock.setblocking(False)
        sock.bind(str(path))
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _remove_stale(path: Path) -> None:
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(errno.EEXIST, "the file exists and is not a socket", str(path))
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another process listens on this socket", str(path))
