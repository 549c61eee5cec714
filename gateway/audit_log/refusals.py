"""Refusals, limited to one line a second for each backend, source and reason. Pure."""

from typing import NamedTuple

WINDOW = 1.0
"""Seconds between two lines about the same refusal."""
_MOST = 1024
OTHERS = "others"
"""The source of refusals that are counted together, because there are too many sources."""


class Refused(NamedTuple):
    """Key under which refusals are counted."""

    backend: str
    source: str | None
    """An address, or `unix`."""
    path: str | None
    uid: int | None
    """Of the process at the other end of the unix socket `path`."""
    consumer: str | None
    reason: str


class Refusals:
    """Counts refusals between two lines."""

    def __init__(self) -> None:
        self._open: dict[Refused, tuple[float, int]] = {}
        """For each: when the next line may be written, in monotonic seconds, and how many refusals wait for it."""

    def __bool__(self) -> bool:
        return bool(self._open)

    def note(self, refused: Refused, now: float) -> Refused | None:
        """Count one refusal at the monotonic time `now`; returns it where a line, of this one, is to be written."""
        if refused not in self._open and len(self._open) >= _MOST:
            refused = refused._replace(source=OTHERS, path=None, uid=None, consumer=None)
        due, waiting = self._open.get(refused, (0.0, 0))
        if now >= due and not waiting:
            self._open[refused] = (now + WINDOW, 0)
            return refused
        self._open[refused] = (due, waiting + 1)
        return None

    def due(self, now: float) -> list[tuple[Refused, int]]:
        """The lines to be written at the monotonic time `now`, with how many refusals each stands for."""
        over = {refused: waiting for refused, (due, waiting) in self._open.items() if now >= due}
        for refused, waiting in over.items():
            if waiting:
                self._open[refused] = (now + WINDOW, 0)
            else:
                del self._open[refused]
        return [(refused, waiting) for refused, waiting in over.items() if waiting]

    def rest(self) -> list[tuple[Refused, int]]:
        """All that wait for a line, whether or not it is due; forgets everything."""
        rest = [(refused, waiting) for refused, (_, waiting) in self._open.items() if waiting]
        self._open = {}
        return rest
