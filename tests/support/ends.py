"""Defines the base class for the two ends (client and server) of a connection under test.

Each end sends predictable data, and checks that it receives the predictable data of the other end.
"""

import random
from collections.abc import Callable, Iterable
from enum import StrEnum
from math import inf

CHUNK = 128 * 1024
_PERIOD = 1_000_003
"""Number of bytes after which the data repeats. This number is prime, so that the receiver detects lost packets."""


class Pattern:
    """The data of one direction of a connection. The offset of each byte determines its value.

    Args:
        seed: The random seed of the data. Each direction has a different seed.
    """

    def __init__(self, seed: int) -> None:
        block = random.Random(seed).randbytes(_PERIOD)
        self._data = memoryview(block + block[: 1 << 20])

    def at(self, offset: int, size: int) -> memoryview:
        """Return the next `size` bytes from `offset`, but at most 1 MiB."""
        start = offset % _PERIOD
        return self._data[start : start + min(size, 1 << 20)]


FORTH, BACK = Pattern(1), Pattern(2)
"""The data from the client to the backend, and the data from the backend to the client."""


class Seen(StrEnum):
    """What an end sees after the last data that it receives: a clean end of stream, or a reset."""

    END = "an end"
    RESET = "a reset"


class End:
    """One end of a connection under test.

    A method for an action, such as `send` or `pause`, returns False if the action is not possible at present.

    Args:
        name: The name of this end in error messages.
        changed: A function that this end calls after each change of its state.
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
        """Whether this end closed without a proper end of stream, for example with a reset. Sent data can be lost."""
        self.gone = False
        """Whether this end has closed both directions."""
        self.refused = False
        """Whether this end can send no more data, because its connection was closed or reset."""
        self.delivered = False
        """Whether this end has closed, and all data that it had sent is certain to reach the gateway."""
        self.complaint = ""
        """The error that this end found in what it received; empty if there was no error."""
        self._ending = False
        self._changed = changed
        self._sends, self._receives = sends, receives

    @property
    def total(self) -> int:
        """Return the number of bytes that this end has sent or queued."""
        return self.sent + self.queued

    @property
    def willing(self) -> float:
        """Return the maximum that `received` can reach in the current state; infinity if this end is not paused."""
        return inf if self.reading else self.received

    @property
    def dropped(self) -> bool:
        """Return whether the connection of this end is reset, even if this end has not yet detected the reset."""
        return self.refused or self.seen is Seen.RESET

    @property
    def listens(self) -> bool:
        """Return whether this end can currently detect that its connection is closed."""
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
        """Send an end of stream after all queued data."""
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
        """Release the resources of this end at the end of a test. This end can be in any state."""
        raise NotImplementedError

    def begin(self, *, paused: bool, early: Iterable[tuple[str, str, int]]) -> None:
        """Pause this end if `paused` is true, then execute the steps in `early`. Call this after the connect."""
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
