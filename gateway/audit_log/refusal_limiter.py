"""Limits refusal events to one line per second for each backend, source and reason. Does no I/O."""

from typing import NamedTuple

WINDOW = 1.0
"""Minimum time between two lines for the same key, in seconds."""
_MAX_KEYS = 1024
OTHERS = "others"
"""The value of `source` in the key that counts the refusals of all further sources, if there are too many keys."""


class RefusalKey(NamedTuple):
    """The key by which refusals are counted. It has the same field names as the audit event."""

    backend: str
    source: str | None
    """The client's address, or `unix` for a unix socket."""
    path: str | None
    uid: int | None
    """User ID of the peer on the unix socket `path`."""
    consumer: str | None
    reason: str


class RefusalLogLimiter:
    """Counts refusals by key, and limits the log lines for each key to one per second."""

    def __init__(self) -> None:
        self._windows: dict[RefusalKey, tuple[float, int]] = {}
        """For each key: the earliest monotonic time of the next line, and the number of refusals to report in it."""

    def __bool__(self) -> bool:
        return bool(self._windows)

    def add(self, key: RefusalKey, now: float) -> RefusalKey | None:
        """Count a refusal at the monotonic time `now`. Return the key of the line to write; None to write no line."""
        if key not in self._windows and len(self._windows) >= _MAX_KEYS:
            key = key._replace(source=OTHERS, path=None, uid=None, consumer=None)
        due, waiting = self._windows.get(key, (0.0, 0))
        if now >= due and not waiting:
            self._windows[key] = (now + WINDOW, 0)
            return key
        self._windows[key] = (due, waiting + 1)
        return None

    def due(self, now: float) -> list[tuple[RefusalKey, int]]:
        """Return the key and the number of refusals for each line to write at the monotonic time `now`."""
        expired = {key: waiting for key, (due, waiting) in self._windows.items() if now >= due}
        for key, waiting in expired.items():
            if waiting:
                self._windows[key] = (now + WINDOW, 0)
            else:
                del self._windows[key]
        return [(key, waiting) for key, waiting in expired.items() if waiting]

    def drain(self) -> list[tuple[RefusalKey, int]]:
        """Return the keys and numbers of all refusals that are not written yet, and remove all keys."""
        unwritten = [(key, waiting) for key, (_, waiting) in self._windows.items() if waiting]
        self._windows = {}
        return unwritten
