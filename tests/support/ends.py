"""One end of a connection under test: it sends a known pattern, and checks what it receives from the other end."""

import random
from collections.abc import Callable, Iterable
from enum import StrEnum
from math import inf

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
        """Apply the events that belong to the moment of the connect."""
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
