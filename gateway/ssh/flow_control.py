"""Defines the window and packet sizes of SSH channels, and limits the memory for received data. Does no I/O.

A window of W bytes limits a channel to W bytes per round trip (RFC 4254, section 5.2). The native engine enlarges a
window if the channel uses at least half of the window in one round trip. The windows of asyncssh's channels do not
grow.

If a client reads slowly, the gateway buffers up to one window of data. Budgets limit this memory: N channels buffer
at most `INITIAL_BUDGET_BYTES` + `GROWTH_BUDGET_BYTES` + N * `MIN_WINDOW` bytes. In addition, Python objects use up to
a tenth of this sum. A window returns its bytes to the budget after the gateway has delivered the last byte to the
client.
"""

from gateway._dataplane import settings

INITIAL_WINDOW = 2 * 1024 * 1024
MIN_WINDOW = 256 * 1024
"""The initial window of a channel, in bytes, if the budget does not suffice for `INITIAL_WINDOW`."""
INITIAL_BUDGET_BYTES = 512 * 1024 * 1024
"""Limit, in bytes, on the initial windows of all channels together. The first `MIN_WINDOW` bytes of each window do
not count."""
MAX_WINDOW = 32 * 1024 * 1024
MAX_RECEIVE_PACKET = 128 * 1024
"""Maximum size, in bytes, of packets that the native engine's channels receive. If the window is large, sshd uses
several times more CPU time with packets of 32 KiB than with packets of this size."""
MAX_SEND_PACKET = 32 * 1024
"""Maximum number of data bytes per sent packet. OpenSSH accepts no larger packets."""
ADJUST_BYTES = 256 * 1024
"""The gateway sends a window adjust after the client has consumed this number of bytes, or a quarter of the window if
that is less. If the gateway waited for half of the window, the server would be idle for part of each round trip."""
GROWTH_BUDGET_BYTES = settings.growth_bytes
"""Limit, in bytes, on the total growth of all windows of this process. Channels of native listeners also use this
budget for their initial windows, except for the first `MIN_WINDOW` bytes."""
CONNECTION_GROWTH_BYTES = 128 * 1024 * 1024
"""Limit, in bytes, on the growth of all windows of one SSH connection, so that a connection with a long round trip
does not use all of `GROWTH_BUDGET_BYTES`."""


class ByteBudget:
    """A limit on the total size of receive windows. Each window takes bytes from the budget, and later returns them.

    Args:
        size: Bytes that are available at the start.
    """

    def __init__(self, size: int) -> None:
        self.available = size

    def take(self, size: int) -> bool:
        """Take `size` bytes if they are available. Return whether they were available."""
        if size > self.available:
            return False
        self.available -= size
        return True

    def release(self, size: int) -> None:
        """Make `size` bytes available again. A window calls this method when it no longer uses these bytes."""
        self.available += size


INITIAL_BUDGET = ByteBudget(INITIAL_BUDGET_BYTES)
"""The budget for initial windows, shared by all channels of this process except those of native listeners."""


class ReceiveWindow:
    """The receive window of one channel. The relay that owns the window must call `close`.

    Args:
        budget: Provides the bytes of the window beyond the first `MIN_WINDOW` bytes.
    """

    __slots__ = ("_budget", "adjust_threshold", "consumed", "size")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.size = INITIAL_WINDOW if budget.take(INITIAL_WINDOW - MIN_WINDOW) else MIN_WINDOW
        self.adjust_threshold = min(ADJUST_BYTES, self.size // 4)
        """Value of `consumed` at which the relay sends a window adjust."""
        self.consumed = 0
        """Bytes delivered to the client, or dropped, since the last window adjust."""

    def grant(self) -> int:
        """Reset `consumed` to 0. Return its previous value, which is the size of the next window adjust."""
        count, self.consumed = self.consumed, 0
        return count

    def close(self) -> None:
        """Return the bytes of this window to the budget. Further calls have no effect."""
        self._budget.release(self.size - MIN_WINDOW)
        self.size = MIN_WINDOW
