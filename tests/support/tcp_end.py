"""Implements one end of a connection under test with a TCP socket."""

import asyncio
import fcntl
import select
import socket
import struct
import termios
from collections.abc import Callable

from gateway.relay.sockets import reset
from tests.support.ends import CHUNK, End, Pattern, Seen


def buffered_bytes(fd: int, what: int) -> int:
    """Return the number of bytes in a socket's receive buffer (FIONREAD) or send buffer (TIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(fd, what, bytes(4)))[0])


class TcpEnd(End):
    """One end of a connection under test, which uses a TCP socket.

    Args:
        name: The name of this end in error messages.
        changed: A function that is called after each change of the state of this end.
        sends: The data that this end sends.
        receives: The data that the other end sends.
        sock: The connected socket.
    """

    VERBS = ("send", "end", "pause", "resume", "take")
    LAST_VERBS: tuple[str, ...] = ("close", "reset")

    def __init__(
        self, name: str, changed: Callable[[], None], sends: Pattern, receives: Pattern, sock: socket.socket
    ) -> None:
        super().__init__(name, changed, sends, receives)
        self._sock = sock
        self._was_reset = False
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._on_readable)

    def pause(self, _: int = 0) -> bool:
        if not self.listens:
            return False
        self.reading = False
        self._loop.remove_reader(self._sock)
        return True

    def resume(self, _: int = 0) -> bool:
        if self.gone or self.reading:
            return False
        self.reading = True
        if self.seen is None:
            self._loop.add_reader(self._sock, self._on_readable)
        return True

    def take(self, size: int) -> bool:
        """Read once, at most `size` bytes. Return False if this end is not paused."""
        if self.gone or self.reading or self.seen is not None:
            return False
        self._read(size)
        return True

    def close(self, _: int = 0) -> bool:
        """Close the socket. If the socket has unread data, the kernel sends a reset (RFC 1122, section 4.2.2.13)."""
        if self.gone:
            return False
        self._send_goodbye()
        self.delivered = self._count(termios.TIOCOUTQ) == 0
        if self._count(termios.FIONREAD):
            self.broken = True
        elif not self.broken:
            self.ended = True
        self._leave()
        self._sock.close()
        return True

    def reset(self, _: int = 0) -> bool:
        """Close the socket with a TCP reset."""
        if self.gone:
            return False
        self.broken = True
        self._leave()
        reset(self._sock)
        return True

    def dispose(self) -> None:
        if not self.gone:
            self._leave()
            self._sock.close()

    @property
    def dropped(self) -> bool:
        if super().dropped:
            return True
        poller = select.poll()
        poller.register(self._sock, 0)  # with an empty event mask, poll(2) reports only errors and hang-ups
        return any(event & select.POLLERR for _, event in poller.poll(0))

    def _leave(self) -> None:
        self.gone = True
        self.queued = 0
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)

    def _count(self, what: int) -> int:
        return buffered_bytes(self._sock.fileno(), what)

    def _on_readable(self) -> None:
        self._read(CHUNK)

    def _read(self, size: int) -> None:
        try:
            data = self._sock.recv(size)
        except BlockingIOError:
            return
        except OSError:
            self._hear(Seen.RESET)
            return
        if data:
            self._receive(data)
        else:
            self._hear(Seen.RESET if self._was_reset else Seen.END)

    def _hear(self, what: Seen) -> None:
        self._loop.remove_reader(self._sock)
        self._see(what)

    def _flush(self) -> None:
        try:
            while self.queued:
                done = self._push(self._sends.at(self.sent, min(self.queued, CHUNK)))
                self.sent += done
                self.queued -= done
            if self._ending and not self.ended:
                self._send_end()
                self.ended = True
            self._push_rest()
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._flush)
            return
        except OSError as error:
            # The kernel reports a reset only once. Later reads return the earlier data, and then a clean end.
            self._was_reset |= isinstance(error, ConnectionResetError)
            self._refuse()
        self._loop.remove_writer(self._sock)
        self._changed()

    def _push(self, data: memoryview) -> int:
        return self._sock.send(data)

    def _push_rest(self) -> None:
        """Send the data that `_push` has stored. A subclass that stores data overrides this method."""

    def _send_end(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def _send_goodbye(self) -> None:
        """Send the messages that a protocol requires before a close, such as close_notify of TLS."""
