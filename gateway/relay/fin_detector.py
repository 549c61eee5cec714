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
        sock: A TCP socket, owned by the caller, that has not failed; see `can_detect`.
        read: Bytes of its stream that were read so far, in the caller's count.
    """

    __slots__ = ("_baseline", "_sock")

    def __init__(self, sock: socket.socket, read: int) -> None:
        self._sock = sock
        state, received = _counters(sock)
        self._baseline = received - read - (state == _CLOSE_WAIT)

    def has_fin(self, read: int) -> bool:
        """Return whether the FIN has arrived. The socket may have failed since.

        Args:
            read: Bytes of the stream that were read so far, in the same count as before.
        """
        return _counters(self._sock)[1] - read > self._baseline


def can_detect(sock: socket.socket) -> bool:
    """Return whether `sock` is a TCP socket that still receives, or has received the FIN and still sends."""
    return sock.family != socket.AF_UNIX and _counters(sock)[0] in (_ESTABLISHED, _CLOSE_WAIT)


def _counters(sock: socket.socket) -> tuple[int, int]:
    """Return the TCP state, and the bytes received less those that are unread."""
    state, received = _tcp_info.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _tcp_info.size))
    unread = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))[0]
    return state, received - unread
