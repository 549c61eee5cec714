"""Formats error messages for addresses and unix sockets that cannot be bound. Does no I/O."""

import errno
import os
import socket

_REMEDIES = {
    errno.EADDRINUSE: "another process uses this port (ss -ltnp shows it): stop that process or choose another port",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE: choose another port, or grant the capability",
    errno.EADDRNOTAVAIL: "choose an address of this host (ip address lists them)",
    errno.EAFNOSUPPORT: "this host has no IPv6: choose an IPv4 address",
}
_UNIX_REMEDIES = {
    errno.EADDRINUSE: (
        "another process, such as a second gateway, uses this socket: stop that process or choose another path"
    ),
    errno.EACCES: "this user has no write permission for the folder: choose another folder, or change its owner",
    errno.EPERM: "this user is not permitted to change the folder: choose another folder, or change its owner",
    errno.EROFS: "choose a folder on a writable file system",
    errno.ENOENT: "create the folder of the socket",
    errno.ENOTDIR: "a part of the path is a file: choose another path",
    errno.EEXIST: "a file that is not a socket has this path: remove the file, or choose another path",
}


def describe_bind_error(error: OSError, *, unix: bool = False) -> str:
    """Return a message that says why a socket cannot be bound, and how to fix the problem.

    Args:
        error: The error of bind(2), listen(2) or getaddrinfo(3).
        unix: Whether the socket is a unix socket.
    """
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}: choose an address of this host"
    number = error.errno or 0
    remedy = (_UNIX_REMEDIES if unix else _REMEDIES).get(number)
    return f"{os.strerror(number)}: {remedy or 'choose another address'}"
