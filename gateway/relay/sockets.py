"""Accepts connections, sets options of sockets, such as keepalive, and closes or resets sockets."""

import asyncio
import contextlib
import ctypes
import errno
import math
import os
import select
import socket
import struct
from typing import Any

_LINGER_NOW = struct.pack("ii", 1, 0)
_LINGER_NOT = struct.pack("ii", 0, 0)
_LIBC = ctypes.CDLL(None, use_errno=True)
_NO_ADDRESS = struct.pack("=H14x", socket.AF_UNSPEC)
KEEPALIVE_IDLE = 30
KEEPALIVE_INTERVAL = 10
KEEPALIVE_COUNT = 3
TCP_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # Keep urgent data in the stream (RFC 6093, section 6). Otherwise, the kernel counts received bytes that the
    # gateway does not read, and `FinDetector` would mistake them for a FIN.
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT),
)
"""Options for each TCP socket to a client or target, as tuples of level, name and value."""


def tune(sock: socket.socket) -> None:
    """Make `sock` non-blocking. If it is a TCP socket, also call `tune_tcp`."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        tune_tcp(sock)


def tune_tcp(sock: socket.socket) -> None:
    """Set the options in `TCP_OPTIONS`: TCP_NODELAY, SO_OOBINLINE and keepalive."""
    for option in TCP_OPTIONS:
        sock.setsockopt(*option)


async def accept_connection(listener: socket.socket) -> tuple[socket.socket, Any]:
    """Wait for a connection, and accept it. The caller owns the returned socket.

    Unlike `loop.sock_accept`, this function does not leak the connection if the caller is cancelled.

    Args:
        listener: A non-blocking listening socket.

    Returns:
        The socket of the connection, and the address of its peer, as `socket.accept` returns them.

    Raises:
        OSError: The connection cannot be accepted, for example because no file descriptors are left.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            return listener.accept()
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(listener, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(listener)


_TCP_RTO_MAX_MS = 44
"""A socket option of Linux 6.15 and later. Python's `socket` module does not define it."""
_MIN_RTO, _MAX_RTO = 0.2, 120.0
"""The minimum and the maximum time between two retransmissions (TCP_RTO_MIN and TCP_RTO_MAX), in seconds."""


def cap_retransmit_interval(sock: socket.socket, outage: float = 60.0) -> None:
    """Limit the time between retransmissions, if the kernel supports TCP_RTO_MAX_MS.

    By default, TCP doubles this time after each retransmission. Therefore, a connection can stay idle after an outage
    for as long as the outage lasted. The kernel closes a connection after 15 retransmissions or window probes
    (tcp_retries2 in tcp(7)), so the limit must not be too low.

    Args:
        sock: Any socket. If it is not a TCP socket, it is left unchanged.
        outage: The number of seconds that the connection must survive without an acknowledgment.
    """
    limit = 1.0
    while limit < _MAX_RTO and _until_close(limit) < outage:
        limit += 0.5
    with contextlib.suppress(OSError):  # the kernel does not support this option, or `sock` is not a TCP socket
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, int(limit * 1000))


def _until_close(limit: float) -> float:
    """Return after how many seconds without an acknowledgment the kernel closes a connection.

    This is the result of tcp_model_timeout in net/ipv4/tcp_timer.c for 15 retransmissions.

    Args:
        limit: The maximum time between two retransmissions, in seconds.
    """
    doublings = int(math.log2(limit / _MIN_RTO))
    return float((2 ** (doublings + 1) - 1) * _MIN_RTO + (15 - doublings) * limit)


NOTSENT_LOWAT = 128 * 1024
"""Default limit on the unsent bytes of an SSH connection in the kernel (TCP_NOTSENT_LOWAT)."""


def limit_unsent(sock: socket.socket, backlog: int = NOTSENT_LOWAT) -> None:
    """Limit unsent data in the kernel, so that urgent data does not wait for bulk data (tcp(7), TCP_NOTSENT_LOWAT).

    Args:
        sock: Any socket. If it is not a TCP socket, it is left unchanged.
        backlog: Maximum number of bytes that wait in the kernel before they are sent for the first time.
    """
    with contextlib.suppress(OSError):  # `sock` is not a TCP socket
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
    """Make the kernel reset the connections accepted on `listener` when this process is killed.

    By default, the kernel closes the sockets of a killed process with a FIN, which looks like normal end-of-file.
    Accepted sockets inherit the option SO_LINGER. `close_gracefully` reverts the option for one socket.
    """
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOW)


def deliver_after_close(sock: socket.socket) -> None:
    """Make the kernel deliver the data in the send buffer after `sock` is closed.

    This call reverts `reset_on_process_exit` for `sock`.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def close_gracefully(sock: socket.socket) -> None:
    """Close `sock` with a FIN. The kernel first delivers the data in the send buffer."""
    deliver_after_close(sock)
    sock.close()


def was_reset(sock: socket.socket, error: OSError | None) -> bool:
    """Return whether the connection of a failed socket broke, usually by a reset, before the peer sent end-of-file.

    EPIPE does not count, because it means that the peer had already sent end-of-file. Any other error counts.

    Args:
        sock: The failed socket.
        error: The error that a system call raised. If it is None, this function reads SO_ERROR.
    """
    code = error.errno if error is not None else sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return code not in (0, errno.EPIPE)


def disconnect(sock: socket.socket) -> None:
    """Break a TCP connection. The kernel sends a reset, and the next call on `sock` fails with ECONNRESET.

    Unlike `reset`, keep `sock` open, so that its owner handles the failure (connect(2), AF_UNSPEC).

    Raises:
        OSError: The kernel cannot break the connection.
    """
    if _LIBC.connect(sock.fileno(), _NO_ADDRESS, len(_NO_ADDRESS)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def has_failed(sock: socket.socket) -> bool:
    """Return whether a connection was reset or has failed. Do not clear SO_ERROR."""
    poller = select.poll()
    poller.register(sock, 0)  # with an empty mask, poll(2) reports only hang-ups and errors
    return any(event & select.POLLERR for _, event in poller.poll(0))


def shutdown_write(sock: socket.socket) -> None:
    """Shut down the write side of `sock`. Do nothing if the connection has already failed."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError:
        return
