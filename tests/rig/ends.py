"""One end of a connection under test: it sends a known pattern, and checks what it receives against the other's."""

import asyncio
import contextlib
import fcntl
import random
import socket
import ssl
import struct
import termios
from collections.abc import Callable
from enum import StrEnum
from math import inf

from gateway.relay.sockets import reset

_CHUNK = 128 * 1024
_RECORD = 16 * 1024
_PERIOD = 1_000_003
"""A prime, so that a piece that is lost, repeated or out of place shows."""


class Pattern:
    """What one direction carries: every byte is known by its offset.

    Args:
        seed: Makes the two directions differ.
    """

    def __init__(self, seed: int) -> None:
        block = random.Random(seed).randbytes(_PERIOD)
        self._data = memoryview(block + block[: 1 << 20])

    def at(self, offset: int, size: int) -> memoryview:
        """The `size` bytes at `offset`, or fewer where `size` exceeds 1 MiB."""
        start = offset % _PERIOD
        return self._data[start : start + min(size, 1 << 20)]


FORTH, BACK = Pattern(1), Pattern(2)
"""From the client, and to it."""


class Seen(StrEnum):
    """How the incoming direction ended."""

    END = "an end"
    RESET = "a reset"


class End:
    """What both kinds of ends keep account of. A verb that cannot be done any more returns False.

    Args:
        name: For messages.
        changed: Called whenever something has happened.
        sends: What it sends.
        receives: What the other end sends.
    """

    def __init__(self, name: str, changed: Callable[[], None], sends: Pattern, receives: Pattern) -> None:
        self.name = name
        self.sent = self.queued = self.received = 0
        self.reading = True
        self.seen: Seen | None = None
        self.ended = False
        """It said that it had sent everything."""
        self.broken = False
        """It broke off, so that what it sent may be lost."""
        self.gone = False
        """It neither sends nor receives any more, by its own choice."""
        self.refused = False
        """What it wanted to send was not taken."""
        self.delivered = False
        """It is gone, and the path had taken all that it sent by then."""
        self.complaint = ""
        self._ending = False
        self._changed = changed
        self._sends, self._receives = sends, receives

    @property
    def total(self) -> int:
        """What it has sent, or is about to as soon as the path takes it."""
        return self.sent + self.queued

    @property
    def willing(self) -> float:
        """How many bytes it will take, if nothing changes."""
        return inf if self.reading else self.received

    @property
    def listens(self) -> bool:
        """Whether it notices an end."""
        return self.reading and not self.gone

    @property
    def mute(self) -> bool:
        return self._ending or self.gone or self.refused

    def send(self, size: int) -> bool:
        if self.mute:
            return False
        self.queued += size
        self._flush()
        return True

    def end(self, _: int = 0) -> bool:
        """Send no more once the path has taken everything."""
        if self.mute:
            return False
        self._ending = True
        self._flush()
        return True

    def _take(self, data: bytes | memoryview) -> None:
        expected = self._receives.at(self.received, len(data))
        if data != expected:
            self.complaint = f"{self.name}: {len(data)} wrong bytes at {self.received}"
        self.received += len(data)
        self._changed()

    def _see(self, what: Seen) -> None:
        if self.seen is None:
            self.seen = what
        self._changed()

    def _refuse(self) -> None:
        self.refused = True
        self.queued = 0
        self._changed()

    def _flush(self) -> None:
        raise NotImplementedError


class TcpEnd(End):
    """An end that is a TCP socket, which it owns.

    Args:
        name: For messages.
        changed: Called whenever something has happened.
        sends: What it sends.
        receives: What the other end sends.
        sock: Connected.
    """

    VERBS = ("send", "end", "pause", "resume", "sip")
    LAST_VERBS = ("close", "reset")

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

    def sip(self, size: int) -> bool:
        """Read so much once, although it is paused."""
        if self.gone or self.reading or self.seen is not None:
            return False
        self._receive(size)
        return True

    def close(self, _: int = 0) -> bool:
        """Close; where something is unread the kernel sends a reset (RFC 1122, section 4.2.2.13)."""
        if self.gone:
            return False
        self._goodbye()
        self.delivered = self._outstanding() == 0
        if self._unread():
            self.broken = True
        else:
            self.ended = True
        self._leave()
        self._sock.close()
        return True

    def reset(self, _: int = 0) -> bool:
        if self.gone:
            return False
        self.broken = True
        self._leave()
        reset(self._sock)
        return True

    def dispose(self) -> None:
        """Close, whatever has happened; what follows is not observed."""
        if not self.gone:
            self._leave()
            self._sock.close()

    def _leave(self) -> None:
        self.gone = True
        self.queued = 0
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)

    def _outstanding(self) -> int:
        """Bytes that the other side's kernel has not acknowledged."""
        return int(struct.unpack("i", fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4)))[0])

    def _unread(self) -> int:
        return int(struct.unpack("i", fcntl.ioctl(self._sock, termios.FIONREAD, bytes(4)))[0])

    def _on_readable(self) -> None:
        self._receive(_CHUNK)

    def _receive(self, size: int) -> None:
        try:
            data = self._sock.recv(size)
        except BlockingIOError:
            return
        except OSError:
            self._hear(Seen.RESET)
            return
        if data:
            self._take(data)
        else:
            self._hear(Seen.RESET if self._was_reset else Seen.END)

    def _hear(self, what: Seen) -> None:
        self._loop.remove_reader(self._sock)
        self._see(what)

    def _flush(self) -> None:
        try:
            while self.queued:
                done = self._push(self._sends.at(self.sent, min(self.queued, _CHUNK)))
                self.sent += done
                self.queued -= done
            if self._ending and not self.ended:
                self._say_end()
                self.ended = True
            self._push_rest()
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._flush)
            return
        except OSError as error:
            # The kernel says it once; what it had received before can still be read, and then looks like an end.
            self._was_reset |= isinstance(error, ConnectionResetError)
            self._refuse()
        self._loop.remove_writer(self._sock)
        self._changed()

    def _push(self, data: memoryview) -> int:
        return self._sock.send(data)

    def _push_rest(self) -> None:
        """Nothing is kept back."""

    def _say_end(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def _goodbye(self) -> None:
        """TCP's own end is enough."""


class TlsEnd(TcpEnd):
    """The server's end of a TLS connection, on bare records: TLS 1.3 can end one direction (RFC 8446, section 6.1).

    Args:
        changed: Called whenever something has happened.
        sock: Connected; the handshake is done.
        tls: The connection's state.
        arrived: Where `tls` takes ciphertext from.
        leaving: Where `tls` puts ciphertext.
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
        """Close without close_notify, as an attacker would."""
        if self.gone:
            return False
        self.broken = not self.ended or self._sealed.nbytes > 0 or self._unread() > 0
        self._leave()
        self._sock.close()
        return True

    def _receive(self, size: int) -> None:
        try:
            data = self._sock.recv(size)
        except BlockingIOError:
            return
        except OSError:
            self._hear(Seen.RESET)
            return
        if not data:
            self._hear(Seen.RESET)  # a cut
            return
        self._arrived.write(data)
        try:
            while plain := self._tls.read(_CHUNK):
                self._take(plain)
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

    def _say_end(self) -> None:
        self._push_rest()
        with contextlib.suppress(ssl.SSLError):  # it would wait for the other's, too
            self._tls.unwrap()
        self._sealed = memoryview(self._leaving.read())

    def _goodbye(self) -> None:
        if self.ended:
            return
        try:
            self._say_end()
            self._push_rest()
        except OSError:  # not all of it is taken: what is left is cut off
            self.broken = True
