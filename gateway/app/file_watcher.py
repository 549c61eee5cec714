"""Detects changed files by polling. Polling works on every file system and with symbolic links."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

log = logging.getLogger(__name__)

_POLL_INTERVAL = 1.0
FileStamp = tuple[int, int, int] | None
"""A file's modification time (in nanoseconds), size and inode; None if the file system returns an error, for example
because the file does not exist."""
FileStamps = dict[Path, FileStamp]


class FileWatcher:
    """Polls files once per second; implements `SupervisedComponent`.

    Args:
        files: Returns the files to watch. Each poll calls it in a thread.
        on_change: Called with the changed files. The watcher reports a changed file only after two successive polls
            find the same stamp.
        initial: The stamps that some files had before the caller read them. The watcher also reports changes since
            these stamps.
    """

    def __init__(
        self,
        files: Callable[[], Iterable[Path]],
        on_change: Callable[[set[Path]], Awaitable[None]],
        initial: FileStamps | None = None,
    ) -> None:
        self._files = files
        self._on_change = on_change
        self._reported = dict(initial or {})

    async def run(self, ready: Callable[[], None]) -> None:
        """Poll until cancelled."""
        reported = self._reported
        current = await asyncio.to_thread(lambda: stat_files(self._files()))
        reported.update({path: stamp for path, stamp in current.items() if path not in reported})
        previous = dict(reported)
        ready()
        while True:
            await asyncio.sleep(_POLL_INTERVAL)
            current = await asyncio.to_thread(lambda: stat_files(self._files()))
            changed = set()
            for path, stamp in current.items():
                if path not in reported:
                    reported[path] = stamp
                elif stamp is not None and stamp != reported[path] and previous.get(path) == stamp:
                    reported[path] = stamp
                    changed.add(path)
            previous = current
            if changed:
                log.info("files changed", extra={"files": sorted(map(str, changed))})
                await self._on_change(changed)


def stat_files(paths: Iterable[Path]) -> FileStamps:
    """Return the current stamp of each file (see `FileStamp`). Blocks until the file system responds."""
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> FileStamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
