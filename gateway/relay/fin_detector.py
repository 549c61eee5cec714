"""Detects whether a TCP socket that has failed had received the peer's FIN: its whole stream, not a part of it.

A `splice` to a socket that fails after it has written some data returns the number of bytes, and the kernel drops the
error (ECONNRESET). Later calls report EPIPE, and reads report end-of-file, as after a FIN. The kernel counts a FIN as
one received byte, but not as an unread one, so the counters of TCP_INFO and FIONREAD show which of the two it was.
"""

import fcntl
import socket
import struct
import termios

_ESTABLISHED = 1
_CLOSE_WAIT = 8
"""TCP states of enum tcp_state (linux/tcp_states.h)."""
_tcp_info = struct.Struct("=B127xQ")
"""`tcpi_state` and `tcpi_bytes_received` of struct tcp_info (linux/tcp.h)."""


class FinDetector:
    """The receive counters of one socket, from the time at which the object is created.

    Args:
        sock: A TCP socket, owned by the caller.
        baseline: The bytes received and not unread, less those that the caller has read and the FIN.
    """

    __slots__ = ("_baseline", "_sock")

    def __init__(self, sock: socket.socket, baseline: int) -> None:
        self._sock = sock
        self._baseline = baseline

    @classmethod
    def of(cls, sock: socket.socket, read: int) -> "FinDetector | None":
        """Return a detector for a TCP socket; None if the socket has failed already.

        Args:
            sock: The socket, owned by the caller.
            read: Bytes of its stream that were read so far, in the caller's count.
        """
        state, received = _counters(sock)
        if state not in (_ESTABLISHED, _CLOSE_WAIT):
            return None
        return cls(sock, received - read - (state == _CLOSE_WAIT))

    def has_fin(self, read: int) -> bool:
        """Return whether the FIN has arrived. The socket may have failed since.

        Args:
            read: Bytes of the stream that were read so far, in the same count as before.
        """
        return _counters(self._sock)[1] - read > self._baseline


def _counters(sock: socket.socket) -> tuple[int, int]:
    """Return the TCP state, and the bytes received less those that are unread."""
    state, received = _tcp_info.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _tcp_info.size))
    unread = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))[0]
    return state, received - unread
