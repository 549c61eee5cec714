"""Notices that files changed, by looking: it works on every file system, and for links that are swapped."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

log = logging.getLogger(__name__)

_EVERY = 1.0
Mark = tuple[int, int, int] | None
"""What tells one content from another without reading it; None: there is no such file."""
Marks = dict[Path, Mark]


class FileWatch:
    """Looks once a second; a `gateway.contracts.Unit`.

    Args:
        files: Which files; called each time, in a thread.
        changed: Awaited with those that changed and have been still since the look before.
        known: What was seen earlier of some of them, before they were read.
    """

    def __init__(
        self,
        files: Callable[[], Iterable[Path]],
        changed: Callable[[set[Path]], Awaitable[None]],
        known: Marks | None = None,
    ) -> None:
        self._files = files
        self._changed = changed
        self._known = dict(known or {})

    async def run(self, ready: Callable[[], None]) -> None:
        """Look until cancelled."""
        known = self._known
        seen = await asyncio.to_thread(lambda: look(self._files()))
        known.update({path: mark for path, mark in seen.items() if path not in known})
        before = dict(known)
        ready()
        while True:
            await asyncio.sleep(_EVERY)
            now = await asyncio.to_thread(lambda: look(self._files()))
            changed = set()
            for path, mark in now.items():
                if path not in known:
                    known[path] = mark
                elif mark is not None and mark != known[path] and before.get(path) == mark:
                    known[path] = mark
                    changed.add(path)
            before = now
            if changed:
                log.info("files changed", extra={"files": sorted(map(str, changed))})
                await self._changed(changed)


def look(paths: Iterable[Path]) -> Marks:
    """What is to be seen of these files now."""
    return {path: _mark(path) for path in paths}


def _mark(path: Path) -> Mark:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
