"""Implements the far side of a connection under test as a TLS server."""

import contextlib
import socket
import ssl
from collections.abc import Callable

from tests.support.ends import BACK, CHUNK, FORTH, Seen
from tests.support.tcp_end import TcpEnd

_RECORD = 16 * 1024


class TlsEnd(TcpEnd):
    """The far side of a connection under test, as a TLS server.

    This class does not use ssl.SSLSocket, so it can close one direction of the connection and keep the other
    direction open (RFC 8446, section 6.1).

    Args:
        changed: A function that is called after each change of the state of this end.
        sock: The connected socket, after the TLS handshake.
        tls: The TLS state of the connection.
        arrived: The buffer from which `tls` reads ciphertext.
        leaving: The buffer to which `tls` writes ciphertext.
    """

    LAST_VERBS = ("close", "reset", "cut")

    def __init__(
        self,
        changed: Callable[[], None],
        sock: socket.socket,
        tls: ssl.SSLObject,
        arrived: ssl.MemoryBIO,
        leaving: ssl.MemoryBIO,
    ) -> None:
        self._tls, self._arrived, self._leaving = tls, arrived, leaving
        self._sealed = memoryview(b"")
        super().__init__("far side", changed, BACK, FORTH, sock)

    def cut(self, _: int = 0) -> bool:
        """Close the socket without sending close_notify, as in a truncation attack."""
        if self.gone:
            return False
        self.broken = True
        self._leave()
        self._sock.close()
        return True

    def _read(self, size: int) -> None:
        try:
            data = self._sock.recv(size)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # without close_notify, the end of stream counts as a reset
            self._hear(Seen.RESET)
            return
        self._arrived.write(data)
        try:
            while plain := self._tls.read(CHUNK):
                self._receive(plain)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLZeroReturnError:
            self._hear(Seen.END)
        except ssl.SSLError:
            self._hear(Seen.RESET)
        else:
            self._hear(Seen.END)

    def _push(self, data: memoryview) -> int:
        self._push_rest()
        done = self._tls.write(data[:_RECORD])
        self._sealed = memoryview(self._leaving.read())
        return done

    def _push_rest(self) -> None:
        while self._sealed:
            self._sealed = self._sealed[self._sock.send(self._sealed) :]

    def _send_end(self) -> None:
        self._push_rest()
        with contextlib.suppress(ssl.SSLError):  # `unwrap` raises an error until the peer's close_notify arrives
            self._tls.unwrap()
        self._sealed = memoryview(self._leaving.read())

    def _send_goodbye(self) -> None:
        try:
            if not self.ended:
                self._send_end()
            self._push_rest()
            self.ended = True
        except OSError:  # the send buffer is full, or the connection is broken
            self.broken = True
