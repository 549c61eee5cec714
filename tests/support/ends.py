"""One end of a connection under test: it sends a known pattern, and checks what it receives from the other end."""

import asyncio
import fcntl
import random
import select
import socket
import struct
import termios
from collections.abc import Callable, Iterable
from enum import StrEnum
from math import inf

from gateway.relay.sockets import reset

CHUNK = 128 * 1024
_PERIOD = 1_000_003
"""A prime, so that lost, repeated or misplaced bytes differ from the expected ones."""


class Pattern:
    """The data of one direction: every byte is identified by its offset.

    Args:
        seed: Makes the two directions differ.
    """

    def __init__(self, seed: int) -> None:
        block = random.Random(seed).randbytes(_PERIOD)
        self._data = memoryview(block + block[: 1 << 20])

    def at(self, offset: int, size: int) -> memoryview:
        """Return `size` bytes at `offset`, at most 1 MiB."""
        start = offset % _PERIOD
        return self._data[start : start + min(size, 1 << 20)]


FORTH, BACK = Pattern(1), Pattern(2)
"""From the client, and to the client."""


class Seen(StrEnum):
    """How the incoming direction ended."""

    END = "an end"
    RESET = "a reset"


class End:
    """Common part of all kinds of ends. A verb that is not possible any more returns False.

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
        """It has sent everything, and its end."""
        self.broken = False
        """It was reset, so what it sent may be lost."""
        self.gone = False
        """It has closed both directions."""
        self.refused = False
        """The path did not accept what it wanted to send."""
        self.delivered = False
        """It has closed, and the path had accepted everything that it sent before."""
        self.complaint = ""
        """Errors in what it received."""
        self._ending = False
        self._changed = changed
        self._sends, self._receives = sends, receives

    @property
    def total(self) -> int:
        """Return how much it has sent, or sends as soon as the path accepts it."""
        return self.sent + self.queued

    @property
    def willing(self) -> float:
        """Return how many bytes it receives in total, if nothing changes."""
        return inf if self.reading else self.received

    @property
    def dropped(self) -> bool:
        """Return whether its connection is reset, noticed or not."""
        return self.refused or self.seen is Seen.RESET

    @property
    def listens(self) -> bool:
        """Return whether it notices an end."""
        return self.reading and not self.gone

    @property
    def _silent(self) -> bool:
        return self._ending or self.gone or self.refused

    def send(self, size: int) -> bool:
        """Send `size` bytes, as soon as the path accepts them."""
        if self._silent:
            return False
        self.queued += size
        self._flush()
        return True

    def end(self, _: int = 0) -> bool:
        """Send an end after the path has accepted everything."""
        if self._silent:
            return False
        self._ending = True
        self._flush()
        return True

    def pause(self, _: int = 0) -> bool:
        """Stop receiving."""
        raise NotImplementedError

    def resume(self, _: int = 0) -> bool:
        """Receive everything from now on."""
        raise NotImplementedError

    def dispose(self) -> None:
        """Close in any state; what follows is not observed."""
        raise NotImplementedError

    def begin(self, *, paused: bool, early: Iterable[tuple[str, str, int]]) -> None:
        """Do what is to be done in the moment in which it is connected."""
        if paused:
            self.pause()
        for _, verb, size in early:
            getattr(self, verb)(size)

    def _flush(self) -> None:
        raise NotImplementedError

    def _receive(self, data: bytes | memoryview) -> None:
        if data != self._receives.at(self.received, len(data)):
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


class TcpEnd(End):
    """An end that is a TCP socket, which it owns.

    Args:
        name: For messages.
        changed: Called whenever something has happened.
        sends: What it sends.
        receives: What the other end sends.
        sock: Connected.
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
        """Read up to `size` bytes once, while it is paused."""
        if self.gone or self.reading or self.seen is not None:
            return False
        self._read(size)
        return True

    def close(self, _: int = 0) -> bool:
        """Close; if data is unread, the kernel sends a reset (RFC 1122, section 4.2.2.13)."""
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
        """Close with a TCP reset."""
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
        poller.register(self._sock, 0)  # reports a failure only (poll(2))
        return any(event & select.POLLERR for _, event in poller.poll(0))

    def _leave(self) -> None:
        self.gone = True
        self.queued = 0
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)

    def _count(self, what: int) -> int:
        """Return the kernel's number of unread or unacknowledged bytes (tcp(7))."""
        return int(struct.unpack("i", fcntl.ioctl(self._sock, what, bytes(4)))[0])

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
            # The kernel reports a reset once. What it had received before can be read, and then looks like an end.
            self._was_reset |= isinstance(error, ConnectionResetError)
            self._refuse()
        self._loop.remove_writer(self._sock)
        self._changed()

    def _push(self, data: memoryview) -> int:
        return self._sock.send(data)

    def _push_rest(self) -> None:
        """Send what `_push` has kept: nothing here."""

    def _send_end(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def _send_goodbye(self) -> None:
        """Send what precedes a close: nothing here."""
