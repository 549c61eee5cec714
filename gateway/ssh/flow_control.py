"""Computes the receive windows of SSH channels: initial sizes, growth, and memory budgets. Does no I/O.

A window of W bytes limits a channel to W bytes per round trip (RFC 4254, section 5.2). A window occupies memory only
when the client reads slowly. A window grows only if the channel uses more than half of it within one round trip,
which happens only on a path with a long round trip.

The budgets bound the memory that slow clients can occupy. N channels hold at most `INITIAL_BUDGET_BYTES` +
`GROWTH_BUDGET_BYTES` + N * `MIN_WINDOW`, plus a tenth of that for the Python objects. In numbers: 2 MiB for each of
the first channels (at least 256 of them), 256 KiB for each further channel, and 512 MiB for all grown windows
together. A window counts until its last byte is delivered to the client, even if its channel closes earlier.
"""

from gateway._dataplane import settings

INITIAL_WINDOW = 2 * 1024 * 1024
MIN_WINDOW = 256 * 1024
"""The initial window of a channel, in bytes, when `INITIAL_BUDGET_BYTES` is used up."""
INITIAL_BUDGET_BYTES = 512 * 1024 * 1024
"""Limit, in bytes, on the sum of the initial windows of all channels, without `MIN_WINDOW` for each channel."""
MAX_WINDOW = 32 * 1024 * 1024
MAX_RECEIVE_PACKET = 128 * 1024
"""Maximum packet size that the gateway offers, in bytes. With 32 KiB and a large window, sshd uses several times the
CPU time."""
ADJUST_BYTES = 256 * 1024
"""Bytes consumed before a window adjust. Many implementations adjust at half of the window. The sender is then idle
for half of each round trip."""
GROWTH_BUDGET_BYTES = settings.growth_bytes
"""Limit, in bytes, on the growth of all windows of this process together, beyond their initial sizes."""
CONNECTION_GROWTH_BYTES = 128 * 1024 * 1024
"""Limit, in bytes, on the window growth of one SSH connection. It keeps one long path from using the whole budget."""


class ByteBudget:
    """A limit on the total size of many receive windows, which take bytes from it and return them.

    Args:
        size: Bytes that are available at the start.
        parent: A larger budget. Bytes that are taken from this budget are also taken from the parent.
    """

    def __init__(self, size: int, parent: "ByteBudget | None" = None) -> None:
        self.available = size
        self._parent = parent

    def take(self, size: int) -> int:
        """Take up to `size` bytes.

        Returns:
            The number of bytes taken. It is less than `size` if the budget or its parent runs out.
        """
        taken = min(size, self.available)
        if self._parent is not None:
            taken = self._parent.take(taken)
        self.available -= taken
        return taken

    def release(self, size: int) -> None:
        """Return to the budget `size` bytes that were taken."""
        self.available += size
        if self._parent is not None:
            self._parent.release(size)


INITIAL_BUDGET = ByteBudget(INITIAL_BUDGET_BYTES)
"""The budget for initial windows, shared by all channels of this process."""
GROWTH_BUDGET = ByteBudget(GROWTH_BUDGET_BYTES)
"""The budget for window growth, shared by all channels of this process."""


class ReceiveWindow:
    """The receive window of one channel, which can grow. The relay that owns it must call `close`.

    Args:
        growth_budget: The budget for growth.
        initial_budget: The budget for the initial size.
    """

    __slots__ = (
        "_growth_budget", "_initial_budget", "_initial_size", "_period_bytes", "_period_start", "adjust_threshold",
        "consumed", "remaining", "size",
    )  # fmt: skip

    def __init__(self, growth_budget: ByteBudget, initial_budget: ByteBudget) -> None:
        extra = initial_budget.take(INITIAL_WINDOW - MIN_WINDOW)
        if extra < INITIAL_WINDOW - MIN_WINDOW:
            initial_budget.release(extra)
            extra = 0
        self.size = self._initial_size = MIN_WINDOW + extra
        self.adjust_threshold = min(ADJUST_BYTES, self.size // 4)
        """Value of `consumed` at which the relay sends a window adjust."""
        self._initial_budget = initial_budget
        self.remaining = self.size
        """Bytes that the peer is still allowed to send. A negative value means that the peer violated the
        protocol."""
        self.consumed = 0
        """Bytes delivered to the client since the last window adjust."""
        self._growth_budget = growth_budget
        self._period_bytes = 0
        self._period_start = 0.0

    def grant(self, now: float, round_trip: float | None) -> int:
        """Return the size of the next window adjust, and count it as granted.

        The adjust covers the consumed bytes, plus growth if the window is too small for the path.

        Args:
            now: The monotonic time, in seconds.
            round_trip: The measured round trip to the peer, in seconds; None if it is unknown, which prevents growth.
        """
        count, self.consumed = self.consumed, 0
        count += self._growth(count, now, round_trip)
        self.remaining += count
        return count

    def close(self) -> None:
        """Return all bytes to the budgets. Further calls have no effect."""
        self._growth_budget.release(self.size - self._initial_size)
        self._initial_budget.release(self._initial_size - MIN_WINDOW)
        self.size = self._initial_size = MIN_WINDOW

    def _growth(self, count: int, now: float, round_trip: float | None) -> int:
        """Double the window if the peer used more than half of it within one round trip; return the growth."""
        self._period_bytes += count
        if round_trip is None or now - self._period_start < round_trip:
            return 0
        used = self._period_bytes * round_trip / (now - self._period_start)
        self._period_start, self._period_bytes = now, 0
        if used * 2 < self.size or self.size >= MAX_WINDOW:
            return 0
        growth = self._growth_budget.take(min(self.size, MAX_WINDOW - self.size))
        self.size += growth
        self.adjust_threshold = min(ADJUST_BYTES, self.size // 4)
        return growth
