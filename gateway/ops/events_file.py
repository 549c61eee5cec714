"""Keeps events in a file of limited size, so that they survive a restart."""

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gateway.atomic_file import replace_file
from gateway.ops.events import MAX_EVENTS, EventLog, Transition
from gateway.ops.events_file_reader import read_events
from gateway.ops.file_lock import lock_file

log = logging.getLogger(__name__)

NAME = "events.jsonl"
LOCK_NAME = "events.lock"
_INTERVAL = 0.2
"""Minimum number of seconds between two writes."""
_RETRY_INTERVAL = 60.0
"""Seconds after which a write that failed is repeated, if there is no new event."""
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors that cause no warning, because a gateway can run without a writable folder."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_TIMEOUT = 2.0
_WRITE_TIMEOUT = 2.0
"""Maximum number of seconds for which the service waits for the file system, which can hang."""


class EventsFile:
    """Saves the events of an event log to a file; implements `gateway.contracts.component.Component`.

    The file has one JSON object per line. If the file cannot be read or written, one log record and `trouble` report
    this. Damaged lines are skipped. If another process uses the file, the events stay in memory. The file is replaced
    only after its events were added to the log, so that none of them is lost.

    Args:
        folder: `gateway.state_dir`. It is created if necessary.
        events: The log.
    """

    def __init__(self, folder: Path, events: EventLog) -> None:
        self.trouble: list[str] = []
        """The error and the remedy, if the file cannot be read or written. Empty if there is no error, or if the
        gateway lacks the permission to write."""
        self._path = folder / NAME
        self._events = events
        self._changed = asyncio.Event()
        self._reading: asyncio.Future[tuple[int | None, list[Transition]]] | None = None
        self._is_read = False
        """Whether the log contains the events of the file."""
        self._written = 0
        """ID of the last event in the file."""
        self._lines = 0
        """Number of lines in the file. Above a limit, the next write replaces the file instead of appending to it."""
        self._writing: asyncio.Future[None] | None = None
        self._reported: set[str] = set()
        self._intact = False
        """Whether lines can be appended to the file: the last write succeeded. The first write replaces the file."""
        self._is_foreign = False
        """Whether another process uses the file."""
        self._lock: int | None = None
        """The descriptor of the locked file."""
        self._closed = False

    async def load(self) -> None:
        """Lock the file, and add its events to the log. Wait at most two seconds for the file system.

        If the file system is slower, the events are added as soon as they are read. The caller must call `close` to
        unlock the file.
        """
        if self._reading is None:
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._lock_and_read))
            self._reading.add_done_callback(self._on_read)
        await asyncio.wait({self._reading}, timeout=_READ_TIMEOUT)
        if self._reading is not None:
            self._report("events stay in memory until the file system of gateway.state_dir responds", "timeout")

    def close(self) -> None:
        """Unlock the file, also if `load` has not finished yet."""
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
                    async with asyncio.timeout(_RETRY_INTERVAL if self.trouble else None):
                        await self._changed.wait()
        finally:
            self._events.watchers.remove(self._changed.set)

    async def write(self) -> None:
        """Write the events that the file does not contain yet. First read the file, if it has not been read yet.

        Wait at most two seconds for each step: the read, a pending earlier write, and this write.
        """
        self._changed.clear()
        if not self._is_read and not self._is_foreign:
            await self.load()
        if not self._is_read:
            return
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_WRITE_TIMEOUT)
        if self._writing is None and (self.trouble or self._written != self._events.last_id):
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._job()))
            self._writing.add_done_callback(self._on_written)
            await asyncio.wait({self._writing}, timeout=_WRITE_TIMEOUT)

    def _lock_and_read(self) -> tuple[int | None, list[Transition]]:
        """Return the descriptor of the lock, and the events in the file. Runs in a thread.

        Without permission to write, the file is read without a lock.

        Raises:
            BlockingIOError: Another process has locked the file.
            OSError: The file cannot be read.
        """
        lock = None
        try:
            # Lock a separate file. `_replace` replaces the events file, and a lock on the old file would not protect
            # the new one.
            lock = lock_file(self._path.with_name(LOCK_NAME))
        except BlockingIOError:
            raise
        except OSError:  # the first write reports the error
            log.debug("cannot lock %s", self._path, exc_info=True)
        try:
            return lock, read_events(self._path)
        except FileNotFoundError:
            return lock, []
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise

    def _on_read(self, reading: "asyncio.Future[tuple[int | None, list[Transition]]]") -> None:
        self._reading = None
        error = None if reading.cancelled() else reading.exception()
        if reading.cancelled():
            return
        if isinstance(error, BlockingIOError):
            self._is_foreign = True
            log.warning(
                "another gateway uses the same state_dir: set another gateway.state_dir; events stay in memory",
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
            self._is_read, self.trouble = True, []
            self._written = 0 if had_events else self._events.last_id
            self._changed.set()

    def _job(self) -> Callable[[], None]:
        """Return a function that appends the new events to the file, or replaces the file. Call it in a thread."""
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
            self._report_error("events will not survive a restart", "set a writable gateway.state_dir", error)
        elif self._intact:
            self.trouble = []
            self._changed.set()

    def _report_error(self, effect: str, remedy: str, error: BaseException) -> None:
        code, detail = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
        if code in _FULL:
            remedy = "free space in the file system of gateway.state_dir"
        level = logging.INFO if code in _READ_ONLY else logging.WARNING
        self.trouble = [] if code in _READ_ONLY else [f"{effect}: {self._path}: {detail}: {remedy}"]
        self._report(f"{effect}: {remedy}", detail, level)

    def _report(self, message: str, detail: str, level: int = logging.INFO) -> None:
        """Log a message, except if it was already logged."""
        if message not in self._reported:
            self._reported.add(message)
            log.log(level, message, extra={"file": str(self._path), "detail": detail})


def _append(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "w", encoding="utf-8") as file:
        file.write(text)


def _replace(path: Path, text: str) -> None:
    replace_file(path, text)
    path.chmod(0o600)
