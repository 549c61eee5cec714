"""Defines an end of a connection under test: it sends a known pattern, and checks the data of the other end."""

import random
from collections.abc import Callable, Iterable
from enum import StrEnum
from math import inf

CHUNK = 128 * 1024
_PERIOD = 1_000_003
"""The period of the pattern in bytes; a prime, so that lost, repeated or misplaced bytes do not match the pattern."""


class Pattern:
    """The data of one direction; the offset of each byte determines its value.

    Args:
        seed: The seed that selects the pattern; each direction has a different seed.
    """

    def __init__(self, seed: int) -> None:
        block = random.Random(seed).randbytes(_PERIOD)
        self._data = memoryview(block + block[: 1 << 20])

    def at(self, offset: int, size: int) -> memoryview:
        """Return `size` bytes at `offset`, at most 1 MiB."""
        start = offset % _PERIOD
        return self._data[start : start + min(size, 1 << 20)]


FORTH, BACK = Pattern(1), Pattern(2)
"""The data from the client to the backend, and the data from the backend to the client."""


class Seen(StrEnum):
    """The way in which the incoming direction of an end closed."""

    END = "an end"
    RESET = "a reset"


class End:
    """The base class of all kinds of ends. A method for an event returns False if the state forbids the event.

    Args:
        name: The name of this end in error messages.
        changed: Called after each change of the state of this end.
        sends: The data that this end sends.
        receives: The data that the other end sends.
    """

    def __init__(self, name: str, changed: Callable[[], None], sends: Pattern, receives: Pattern) -> None:
        self.name = name
        self.sent = self.queued = self.received = 0
        self.reading = True
        self.seen: Seen | None = None
        self.ended = False
        """Whether this end has sent all its data and then the end of stream."""
        self.broken = False
        """Whether this end was reset, so that data that it sent can be lost."""
        self.gone = False
        """Whether this end has closed both directions."""
        self.refused = False
        """Whether the connection rejected data of this end."""
        self.delivered = False
        """Whether this end closed after the connection had accepted all data of this end."""
        self.complaint = ""
        """The error in the received data; empty if there is none."""
        self._ending = False
        self._changed = changed
        self._sends, self._receives = sends, receives

    @property
    def total(self) -> int:
        """Return the number of bytes that this end has sent or queued."""
        return self.sent + self.queued

    @property
    def willing(self) -> float:
        """Return the maximum that `received` can reach in the present state of this end."""
        return inf if self.reading else self.received

    @property
    def dropped(self) -> bool:
        """Return whether the connection of this end is reset, even if this end has not yet detected the reset."""
        return self.refused or self.seen is Seen.RESET

    @property
    def listens(self) -> bool:
        """Return whether this end can detect in its present state that the other end closes."""
        return self.reading and not self.gone

    @property
    def _silent(self) -> bool:
        return self._ending or self.gone or self.refused

    def send(self, size: int) -> bool:
        """Queue `size` bytes, which this end sends as soon as the connection accepts them."""
        if self._silent:
            return False
        self.queued += size
        self._flush()
        return True

    def end(self, _: int = 0) -> bool:
        """Send an end of stream after the connection has accepted all queued data."""
        if self._silent:
            return False
        self._ending = True
        self._flush()
        return True

    def pause(self, _: int = 0) -> bool:
        """Stop receiving."""
        raise NotImplementedError

    def resume(self, _: int = 0) -> bool:
        """Resume receiving after `pause`."""
        raise NotImplementedError

    def dispose(self) -> None:
        """Release the resources of this end in any state, at the end of a test."""
        raise NotImplementedError

    def begin(self, *, paused: bool, early: Iterable[tuple[str, str, int]]) -> None:
        """Apply the events that must happen immediately after the connect."""
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
