"""Keeps events in a file of limited size, so that they survive a restart."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gateway.atomic_file import replace_file
from gateway.ops.events import MAX_EVENTS, EventLog, EventSubject, EventType, Transition
from gateway.ops.file_lock import lock_file
from gateway.text import one_line

log = logging.getLogger(__name__)

NAME = "events.jsonl"
LOCK_NAME = "events.lock"
_MAX_BYTES = 4 << 20
"""Only this part at the end of a file is read. A complete file is smaller."""
_INTERVAL = 0.2
"""Minimum number of seconds between two writes."""
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
_CLOCK_ERROR = 86400.0
"""Seconds. An ID is a time, and can be later than the present by this much, because a clock can be set back."""
_READ_TIMEOUT = 2.0
_WRITE_TIMEOUT = 2.0
"""Seconds to wait for a file system. It can hang; the service does not wait for it longer than this."""


class EventsFile:
    """Writes the events of a log to a file; implements `gateway.contracts.component.Component`.

    The file has one JSON object per line. A file that cannot be read or written is logged once, and changes nothing
    else. Damaged lines are skipped. If another process uses the file, the events stay in memory.

    Args:
        folder: `gateway.state_dir`. It is created if necessary.
        events: The log.
    """

    def __init__(self, folder: Path, events: EventLog) -> None:
        self._path = folder / NAME
        self._events = events
        self._changed = asyncio.Event()
        self._written = 0
        """ID of the last event in the file."""
        self._lines = 0
        """Number of lines in the file. Above the limit, the file is replaced; initially, it always is."""
        self._writing: asyncio.Future[None] | None = None
        self._failed = False
        self._intact = False
        """Whether lines can be appended to the file."""
        self._is_foreign = False
        """Whether another process uses the file."""
        self._lock: int | None = None
        """The descriptor of the locked file."""

    async def load(self) -> None:
        """Lock the file, and add its events to the log. Waits at most two seconds for the file system.

        The caller must call `close` at the end.
        """
        try:
            async with asyncio.timeout(_READ_TIMEOUT):
                events = await asyncio.to_thread(self._lock_and_read)
        except BlockingIOError:
            self._is_foreign = True
            log.warning(
                "another gateway uses the same state_dir: set another gateway.state_dir; events stay in memory",
                extra={"file": str(self._path)},
            )
            return
        except (OSError, TimeoutError) as error:
            if not isinstance(error, FileNotFoundError):
                self._report(error)
            return
        self._events.load(events)
        self._written = self._events.last_id

    def close(self) -> None:
        """Unlock the file."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Write each event until cancelled."""
        self._events.watchers.append(self._changed.set)
        try:
            ready()
            while True:
                await self.write()
                await asyncio.sleep(_INTERVAL)
                await self._changed.wait()
        finally:
            self._events.watchers.remove(self._changed.set)

    async def write(self) -> None:
        """Write the events that are not in the file yet. Waits at most two seconds for each of two writes."""
        self._changed.clear()
        if self._is_foreign:
            return
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_WRITE_TIMEOUT)
        if self._writing is None and self._written != self._events.last_id:
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._job()))
            self._writing.add_done_callback(self._on_written)
            await asyncio.wait({self._writing}, timeout=_WRITE_TIMEOUT)

    def _lock_and_read(self) -> list[Transition]:
        """Return the events in the file. Without permission to write, the file is read without a lock.

        Raises:
            BlockingIOError: Another process has locked the file.
            OSError: The file cannot be read.
        """
        try:
            # `_replace` replaces the file with the events, and would leave the new one unlocked.
            self._lock = lock_file(self._path.with_name(LOCK_NAME))
        except BlockingIOError:
            raise
        except OSError:  # `write` reports it
            log.debug("cannot lock %s", self._path, exc_info=True)
        return _read(self._path)

    def _job(self) -> Callable[[], None]:
        """Return a function that writes the events; call it in a thread."""
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
        self._changed.set()
        error = None if writing.cancelled() else writing.exception()
        self._intact = error is None and not writing.cancelled()
        if error is not None:
            self._report(error)

    def _report(self, error: BaseException) -> None:
        if not self._failed:
            self._failed = True
            detail = getattr(error, "strerror", None) or str(error) or "the file system does not respond"
            log.info(
                "events will not survive a restart: set a writable gateway.state_dir",
                extra={"file": str(self._path), "detail": detail},
            )


def parse(text: str, now: float) -> Iterator[Transition]:
    """Yield the events in the text of a file. Skip damaged lines, and lines that are not in order.

    Args:
        text: The text.
        now: The present time in seconds since the epoch. A line with an ID that is over a day later is damaged.
    """
    events = []
    for line in text.splitlines():
        with suppress(*_DAMAGED):
            events.append(_event(json.loads(line), int((now + _CLOCK_ERROR) * 1000)))
    last = 0
    for event, following in zip_longest(events, events[1:]):
        # An ID that is too large must not exclude all events after it.
        if event.id > last and (following is None or event.id < following.id):
            last = event.id
            yield event


def _event(body: dict[str, Any], largest: int) -> Transition:
    """Return the event in a JSON object.

    Args:
        body: The object.
        largest: The largest ID that an event can have.

    Raises:
        ValueError, TypeError, KeyError, ArithmeticError: The object is not an event.
    """
    if type(body["id"]) is not int or not 0 < body["id"] <= largest:
        raise ValueError

    def text(key: str) -> str | None:
        return None if body[key] is None else one_line(body[key])

    return Transition(
        id=body["id"],
        at=datetime.fromisoformat(body["time"]).timestamp(),
        subject=EventSubject(EventType(body["type"]), text("name"), text("target")),
        state=one_line(body["state"]),
        previous=text("previous"),
        reason=text("reason"),
        detail=one_line(body["detail"]),
    )


def _read(path: Path) -> list[Transition]:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        file.seek(max(0, status.st_size - _MAX_BYTES))
        text = file.read(_MAX_BYTES).decode(errors="replace")
    # After a boot without a real-time clock, the present time can be earlier than that of the file.
    return list(parse(text, max(time.time(), status.st_mtime)))[-MAX_EVENTS:]


def _append(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "w", encoding="utf-8") as file:
        file.write(text)


def _replace(path: Path, text: str) -> None:
    replace_file(path, text)
    path.chmod(0o600)
