"""Detects whether a TCP socket received the peer's FIN, and thus all data, before the socket failed.

This check is necessary because splice(2) can hide a reset. If the peer resets the connection after `splice` has
written some data, the kernel drops the error. Later calls then behave as after a FIN: writes report EPIPE, and reads
report end-of-file.

The kernel counts a FIN as one received byte (TCP_INFO), but not as an unread byte (FIONREAD). The two counters
therefore show whether a FIN arrived.
"""

import fcntl
import socket
import struct
import termios

_ESTABLISHED, _CLOSE_WAIT = 1, 8
"""TCP states, from the kernel's net/tcp_states.h."""
_tcp_info = struct.Struct("=B127xQ")
"""The fields `tcpi_state` and `tcpi_bytes_received` of struct tcp_info (linux/tcp.h)."""


class FinDetector:
    """Detects a received FIN by comparing the kernel's receive counters with their earlier values.

    Args:
        sock: A TCP socket, owned by the caller.
        baseline: The number of received bytes, minus the unread bytes, minus the bytes that the caller has read. This
            difference is constant before a FIN arrives. A FIN increases the difference by 1.
    """

    __slots__ = ("_baseline", "_sock")

    def __init__(self, sock: socket.socket, baseline: int) -> None:
        self._sock = sock
        self._baseline = baseline

    @classmethod
    def of(cls, sock: socket.socket, read: int) -> "FinDetector | None":
        """Return a detector for a TCP socket; None if the socket has already failed.

        Args:
            sock: The socket, owned by the caller.
            read: Number of bytes that the caller has read from the socket so far.
        """
        state, received = _counters(sock)
        if state not in (_ESTABLISHED, _CLOSE_WAIT):
            return None
        return cls(sock, received - read - (state == _CLOSE_WAIT))

    def has_fin(self, read: int) -> bool:
        """Return whether the peer's FIN has arrived. The result is correct even after the socket has failed.

        Args:
            read: Number of bytes that the caller has read from the socket so far.
        """
        return _counters(self._sock)[1] - read > self._baseline


def _counters(sock: socket.socket) -> tuple[int, int]:
    """Return the TCP state, and the number of received bytes minus the unread bytes.

    Several system calls read these values, and data can arrive between two calls. Therefore, this function calls
    FIONREAD again until TCP_INFO returns the same values before and after the call.
    """
    after = _read_info(sock)
    while True:
        before = after
        (unread,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))
        after = _read_info(sock)
        if after == before:
            return after[0], after[1] - unread


def _read_info(sock: socket.socket) -> tuple[int, int]:
    state, received = _tcp_info.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _tcp_info.size))
    return state, received
