"""Saves the event log to a file of limited size, so that the events survive a restart of the service."""

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gateway.atomic_file import replace_file
from gateway.ops.events import MAX_EVENTS, EventLog, StateChange
from gateway.ops.events_file_reader import read_events
from gateway.ops.file_lock import lock_file

log = logging.getLogger(__name__)

NAME = "events.jsonl"
LOCK_NAME = "events.lock"
_INTERVAL = 0.2
"""Minimum number of seconds between two writes."""
_RETRY_INTERVAL = 60.0
"""Seconds after which a failed write is repeated. A new event causes a write sooner. After an error in `_READ_ONLY`,
only a new event causes a write."""
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors that are logged at the level `info` instead of `warning`, because a gateway does not need a writable
`state_dir`."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_TIMEOUT = 2.0
_WRITE_TIMEOUT = 2.0
"""Maximum number of seconds to wait for one write, because a file system can hang."""


class EventsFile:
    """Saves the events of an event log to a file; implements `SupervisedComponent`.

    The file has one JSON object per line. At startup, `EventsFile` adds the events in the file to the event log, and
    skips damaged lines. The first write then replaces the file.

    If the file cannot be read or written, `EventsFile` logs the error once. If another process uses the file, events
    are not saved.

    Args:
        folder: `gateway.state_dir`. It is created if necessary.
        events: The event log.
    """

    def __init__(self, folder: Path, events: EventLog) -> None:
        self.warnings: list[str] = []
        """A list with one message if the file cannot be read or written; otherwise, an empty list. The message
        contains the reason and the remedy. Missing permissions and a read-only file system do not count as errors."""
        self._path = folder / NAME
        self._events = events
        self._changed = asyncio.Event()
        self._reading: asyncio.Future[tuple[int | None, list[StateChange]]] | None = None
        self._is_read = False
        """Whether the events in the file have been added to the event log."""
        self._written = 0
        """ID of the last event in the file."""
        self._lines = 0
        """Number of lines in the file. A write that would exceed `2 * MAX_EVENTS` lines replaces the file."""
        self._writing: asyncio.Future[None] | None = None
        self._reported: set[str] = set()
        self._intact = False
        """Whether the last write succeeded. If so, the next write appends lines; otherwise, it replaces the file."""
        self._is_foreign = False
        """Whether another process uses the file."""
        self._lock: int | None = None
        """The descriptor of the locked file; None if the file is not locked."""
        self._closed = False

    async def load(self) -> None:
        """Lock the file, and add its events to the event log. Wait at most two seconds for the file system.

        If reading takes longer, return, and add the events later. The caller must call `close` to unlock the file.
        """
        if self._reading is None:
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._lock_and_read))
            self._reading.add_done_callback(self._on_read)
        await asyncio.wait({self._reading}, timeout=_READ_TIMEOUT)
        if self._reading is not None:
            self._report("events stay in memory until the file system of gateway.state_dir responds", "timeout")

    def close(self) -> None:
        """Unlock the file. If `load` is still locking the file in a thread, unlock it when the thread ends."""
        self._closed = True
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Write new events to the file, until cancelled."""
        self._events.watchers.append(self._changed.set)
        try:
            ready()
            while True:
                await self.write()
                await asyncio.sleep(_INTERVAL)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_INTERVAL if self.warnings else None):
                        await self._changed.wait()
        finally:
            self._events.watchers.remove(self._changed.set)

    async def write(self) -> None:
        """Write the events that the file does not contain yet. If the file has not been read yet, read it first.

        Wait at most two seconds for each step: read the file, finish an earlier write, and finish this write.
        """
        self._changed.clear()
        if not self._is_read and not self._is_foreign:
            await self.load()
        if not self._is_read:
            return
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_WRITE_TIMEOUT)
        if self._writing is None and (self.warnings or self._written != self._events.last_id):
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._job()))
            self._writing.add_done_callback(self._on_written)
            await asyncio.wait({self._writing}, timeout=_WRITE_TIMEOUT)

    def _lock_and_read(self) -> tuple[int | None, list[StateChange]]:
        """Lock the file, and read its events. Runs in a thread.

        Returns:
            The descriptor that holds the lock, and the events. The descriptor is None if locking fails, for example
            because the directory is not writable.

        Raises:
            BlockingIOError: Another process has locked the file.
            OSError: The file cannot be read.
        """
        lock = None
        try:
            # Lock a separate file. `_replace` replaces the events file, so a lock on the events file would no longer
            # protect the new file.
            lock = lock_file(self._path.with_name(LOCK_NAME))
        except BlockingIOError:
            raise
        except OSError:
            # Continue without a lock. If the directory is not writable, the first write logs the error.
            log.debug("cannot lock %s", self._path, exc_info=True)
        try:
            return lock, read_events(self._path)
        except FileNotFoundError:
            return lock, []
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise

    def _on_read(self, reading: "asyncio.Future[tuple[int | None, list[StateChange]]]") -> None:
        self._reading = None
        error = None if reading.cancelled() else reading.exception()
        if reading.cancelled():
            return
        if isinstance(error, BlockingIOError):
            self._is_foreign = True
            log.warning(
                "another gateway uses this state_dir, so events are not saved: set a different gateway.state_dir",
                extra={"file": str(self._path)},
            )
        elif error is not None:
            self._report_error("events stay in memory", "set a readable and writable gateway.state_dir", error)
        else:
            self._lock, events = reading.result()
            if self._closed:
                self.close()
                return
            had_events = bool(self._events.latest())
            self._events.load(events)
            self._is_read, self.warnings = True, []
            self._written = 0 if had_events else self._events.last_id
            self._changed.set()

    def _job(self) -> Callable[[], None]:
        """Return a function that appends the new events to the file, or replaces the file.

        The caller must run the function in a thread, because it blocks.
        """
        added = self._events.since(self._written) if self._intact else None
        if added is not None and self._lines + len(added) <= 2 * MAX_EVENTS:
            job, events = _append, added
            self._lines += len(added)
        else:
            job, events = _replace, self._events.latest()
            self._lines = len(events)
        self._written = events[-1].id
        return partial(job, self._path, "".join(f"{event.line}\n" for event in events))

    def _on_written(self, writing: "asyncio.Future[None]") -> None:
        self._writing = None
        error = None if writing.cancelled() else writing.exception()
        self._intact = error is None and not writing.cancelled()
        if error is not None:
            fix = "set gateway.state_dir to a writable directory"
            self._report_error("events will not survive a restart", fix, error)
        elif self._intact:
            self.warnings = []
            self._changed.set()

    def _report_error(self, effect: str, remedy: str, error: BaseException) -> None:
        code, detail = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
        if code in _FULL:
            remedy = "free up space in the file system of gateway.state_dir"
        level = logging.INFO if code in _READ_ONLY else logging.WARNING
        self.warnings = [] if code in _READ_ONLY else [f"{effect}: {self._path}: {detail}: {remedy}"]
        self._report(f"{effect}: {remedy}", detail, level)

    def _report(self, message: str, detail: str, level: int = logging.INFO) -> None:
        """Log a message, unless this `EventsFile` has already logged the same message."""
        if message not in self._reported:
            self._reported.add(message)
            log.log(level, message, extra={"file": str(self._path), "detail": detail})


def _append(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "w", encoding="utf-8") as file:
        file.write(text)


def _replace(path: Path, text: str) -> None:
    replace_file(path, text)
    path.chmod(0o600)
