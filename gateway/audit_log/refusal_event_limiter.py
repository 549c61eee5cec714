"""Limits the audit events about refused clients: one per second for each `RefusalKey`."""

from typing import NamedTuple

WINDOW = 1.0
"""Minimum time between two audit events with the same `RefusalKey`, in seconds."""
_MAX_KEYS = 1024
OTHERS = "others"
"""If the limiter already has `_MAX_KEYS` keys, it replaces the `source` of each new key with this value. It also sets
`path`, `uid` and `consumer` of the new key to None."""


class RefusalKey(NamedTuple):
    """The key by which refused clients are counted. The fields have the same names as in the audit event."""

    backend: str
    source: str | None
    """The client's address, or `unix` for a unix socket."""
    path: str | None
    uid: int | None
    """User ID of the client on the unix socket `path`."""
    consumer: str | None
    reason: str


class RefusalEventLimiter:
    """Counts refused clients by key, and limits the audit events about them to one per second for each key."""

    def __init__(self) -> None:
        self._windows: dict[RefusalKey, tuple[float, int]] = {}
        """For each key of refusals: the earliest monotonic time of the next event, and the number of refusals that
        the next event reports."""

    def __bool__(self) -> bool:
        return bool(self._windows)

    def add(self, key: RefusalKey, now: float) -> RefusalKey | None:
        """Count a refusal.

        Args:
            key: The key of the refusal.
            now: The current time in monotonic seconds.

        Returns:
            The key of an event to write now about this refusal. Its source is `OTHERS` if there are too many keys.
            None if a later call of `due` or `drain` reports the refusal.
        """
        if key not in self._windows and len(self._windows) >= _MAX_KEYS:
            key = key._replace(source=OTHERS, path=None, uid=None, consumer=None)
        due, waiting = self._windows.get(key, (0.0, 0))
        if now >= due and not waiting:
            self._windows[key] = (now + WINDOW, 0)
            return key
        self._windows[key] = (due, waiting + 1)
        return None

    def due(self, now: float) -> list[tuple[RefusalKey, int]]:
        """Return the key and the number of refusals for each event to write now.

        Args:
            now: The current time in monotonic seconds.
        """
        expired = {key: waiting for key, (due, waiting) in self._windows.items() if now >= due}
        for key, waiting in expired.items():
            if waiting:
                self._windows[key] = (now + WINDOW, 0)
            else:
                del self._windows[key]
        return [(key, waiting) for key, waiting in expired.items() if waiting]

    def drain(self) -> list[tuple[RefusalKey, int]]:
        """Return the key and the number of refusals for each event that is not written yet. Reset all counters."""
        unwritten = [(key, waiting) for key, (_, waiting) in self._windows.items() if waiting]
        self._windows = {}
        return unwritten
