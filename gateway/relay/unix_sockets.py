"""Binds unix sockets, and identifies the processes that connect to them."""

import errno
import os
import socket
import stat
import struct
from asyncio.trsock import TransportSocket
from pathlib import Path
from typing import NamedTuple

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
        OSError: `path` exists and is not a socket, another process listens on this socket, or the directory is not
            writable.
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
