"""What every socket of ours gets: no Nagle, dead-peer detection, a reset that is a reset."""

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
"""After this long without an acknowledgement the kernel gives a peer up (RFC 5482)."""


def tune(sock: socket.socket) -> None:
    """Make `sock` non-blocking; on TCP, switch Nagle off and dead-peer detection on."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


_TCP_RTO_MAX_MS = 44
"""Linux 6.15; not in Python's `socket` yet."""
_RTO_MAX_MS = 2000


def hurry_retransmits(sock: socket.socket) -> None:
    """Let a stalled connection try again every two seconds, where the kernel can.

    Otherwise it waits twice as long after each try, and sleeps through the end of a stall by as much as it lasted.
    """
    with contextlib.suppress(OSError):  # an older kernel, or no TCP
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, _RTO_MAX_MS)


NOTSENT_LOWAT = 128 * 1024
"""Bytes of an SSH connection that wait in the kernel before they are first sent."""


def keep_backlog_short(sock: socket.socket) -> None:
    """Let the kernel take no more than it can send soon, so that what is urgent does not queue behind it (tcp(7))."""
    with contextlib.suppress(OSError):  # no TCP
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)


def reset(sock: socket.socket) -> None:
    """Close `sock` with a TCP reset, so that the peer sees a failure and never a clean end."""
    if sock.fileno() < 0:
        return
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOW)
    sock.close()


def reset_when_killed(listener: socket.socket) -> None:
    """Let every socket that `listener` accepts end in a reset when nobody is left to end it: see `finish`.

    What the kernel closes for a process that was killed would otherwise look like a clean end.
    """
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOW)


def keep_after_close(sock: socket.socket) -> None:
    """Let what is still on its way to the peer arrive, whoever closes `sock`: undoes `reset_when_killed`."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def finish(sock: socket.socket) -> None:
    """Close `sock` cleanly: what is still on its way to the peer arrives."""
    keep_after_close(sock)
    sock.close()


def was_reset(sock: socket.socket, error: OSError | None) -> bool:
    """Whether the stream of a socket that failed broke off; the kernel says EPIPE where it had ended before.

    Args:
        sock: Which.
        error: What it failed with, where that was seen; otherwise the socket is asked.
    """
    code = error.errno if error is not None else sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return code not in (0, errno.EPIPE)


def shut_write(sock: socket.socket) -> None:
    """Send the end of our stream; a peer that is gone already is no error."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return


_UCRED = struct.Struct("iII")
"""`struct ucred` (unix(7)): the process, its user, its group."""


class Peer(NamedTuple):
    """A process at the other end of a unix socket, as the kernel saw it when it connected (unix(7), SO_PEERCRED)."""

    pid: int
    """0: it is in a PID namespace that this process does not see."""
    uid: int
    gid: int


def peer_of(sock: socket.socket | TransportSocket) -> Peer | None:
    """The peer of a unix socket; None: it is gone, or this is another sort of socket."""
    if sock.family != socket.AF_UNIX:
        return None
    try:
        return Peer(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
    except OSError:
        return None


def bind_unix(path: Path, mode: int) -> socket.socket:
    """A non-blocking unix socket bound at `path` with these permissions from its first moment.

    A socket that a dead process left behind is replaced.

    Raises:
        OSError: Something else is there, another process listens, or the folder is not writable.
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
        raise FileExistsError(errno.EEXIST, "exists and is no socket", str(path))
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another process is listening there", str(path))
