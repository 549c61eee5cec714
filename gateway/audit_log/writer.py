"""Writes the audit log in a thread of its own, so that a disk that is full or hangs does not delay traffic."""

import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from gateway.audit_log.destination import Destination
from gateway.audit_log.events import Event, line

log = logging.getLogger(__name__)

_GATHER = 0.05
"""Seconds in which events are gathered for one write."""
_RETRY = 1.0
_SAY_EVERY = 60.0
_STUCK = 5.0
"""Seconds without progress after which the log is said to hang."""
MISCONFIGURED = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP,
        errno.ENAMETOOLONG, errno.ENXIO, errno.EBADF,
    }
)  # fmt: skip
"""Errors that are the operator's to correct, rather than of a disk that is full or broken."""


class Writer:
    """Takes events in the event loop, and writes them in its thread; a `gateway.audit_log.recorder.Sink`.

    Args:
        target: A path, or `stdout` or `stderr`.
        instance: This gateway's name, which is in each line.
        most: Events that wait at most; those beyond are counted as dropped.
    """

    def __init__(self, target: Path | str, instance: str, most: int) -> None:
        self.dropped = 0
        """Events that are not in the log."""
        self.opened = threading.Event()
        """Set after the first attempt to open the target."""
        self.error: OSError | None = None
        """Why the last attempt to open or write failed; None: it did not."""
        self._target = target
        self._destination = Destination(target)
        self._instance = instance
        self._most = most
        self._lock = threading.Lock()
        self._waiting: list[Event] = []
        self._unsaid = 0
        """Events that were dropped since the last line about it."""
        self._writing: deque[bytes] = deque()
        """Lines that the thread works on."""
        self._progress = time.monotonic()
        self._reopen = False
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._full = _Seldom()
        self._failed = _Seldom()
        self._thread = threading.Thread(target=self._run, name="audit log", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """See `gateway.audit_log.recorder.Sink`."""
        with self._lock:
            full = len(self._waiting) >= self._most
            if full:
                self.dropped += 1
                self._unsaid += 1
            else:
                self._waiting.append(event)
        if full:
            self._full.say(lambda: log.error("the audit log is full: events are dropped", extra=self._details()))
        elif not self._wake.is_set():
            self._wake.set()

    def lost(self, count: int, why: str) -> None:
        """See `gateway.audit_log.recorder.Sink`."""
        with self._lock:
            self.dropped += count
            if len(self._waiting) >= self._most:
                self._unsaid += count
            else:
                self._waiting.append(Event(time.time(), "dropped", {"count": count, "reason": why}))
        self._wake.set()

    def reopen(self) -> None:
        """Open the target again before the next write: it may have been rotated."""
        self._reopen = True

    @property
    def trouble(self) -> str | None:
        """Why lines are not written now, in one line; None: they are."""
        error = self.error
        if not self.alive and not self._closing.is_set():
            return f"the audit log {self._target} is not written: its thread has ended: restart the gateway"
        if error is not None:
            return f"the audit log {self._target} cannot be written: {error.strerror or error}"
        if not self.opened.is_set():
            return (
                f"the audit log {self._target} cannot be opened: a FIFO without a reader, or a file system that hangs"
            )
        stuck = time.monotonic() - self._progress
        if self._writing and stuck > _STUCK:
            return f"the audit log {self._target} has taken nothing for {stuck:.0f} s"
        return None

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def begin_close(self) -> None:
        """Write what waits, and end the thread; `alive` says when."""
        self._closing.set()
        self._wake.set()

    def abandon(self) -> int:
        """Count what is not written, when the thread did not end in time; returns how many events that are."""
        with self._lock:
            left = len(self._waiting) + len(self._writing)
            self.dropped += left
            self._waiting = []
        if left:
            log.error("the audit log did not take its last events: they are lost", extra={"events": left})
        return left

    def _details(self) -> dict[str, object]:
        return {"file": str(self._target), "dropped": self.dropped, "detail": self.trouble or "it is too slow"}

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            log.exception("the audit log's thread has ended: its events are dropped")
            self._most = 0
            self.abandon()

    def _work(self) -> None:
        try:
            self._destination.open()
        except OSError as error:
            self.error = error
        self.opened.set()
        while not self._finished():
            self._wake.wait()
            self._closing.wait(_GATHER)
            self._wake.clear()
            self._take()
            self._deliver()
        self._destination.close()

    def _finished(self) -> bool:
        return self._closing.is_set() and not self._waiting and not self._unsaid

    def _take(self) -> None:
        with self._lock:
            events, self._waiting = self._waiting, []
            unsaid, self._unsaid = self._unsaid, 0
        if unsaid:  # they came after those that were taken
            events.append(Event(time.time(), "dropped", {"count": unsaid, "reason": "queue_full"}))
        self._progress = time.monotonic()
        for each in events:
            try:
                self._writing.append(line(each, self._instance))
            except Exception:
                log.exception("an event cannot be written to the audit log", extra={"event": each.name})
                self.lost(1, "not_encodable")

    def _deliver(self) -> None:
        """Write, again and again, until everything is written, or until the end is near."""
        last = False
        while self._writing:
            try:
                if self._reopen:
                    self._reopen = False
                    self._destination.open()
                self._destination.write(self._writing)
            except OSError as error:
                self.error = error
                self._failed.say(lambda: log.error("the audit log cannot be written", extra=self._details()))
                if last:
                    self._give_up()
                    return
                last = self._closing.wait(_RETRY)
            else:
                self._progress = time.monotonic()
                if self.error is not None:
                    self.error = None
                    log.info("the audit log is written again", extra={"file": str(self._target)})

    def _give_up(self) -> None:
        """Lose what cannot be written before the end."""
        with self._lock:
            left = len(self._writing) + len(self._waiting)
            self.dropped += left
            self._waiting, self._unsaid = [], 0
        self._writing.clear()
        log.error("the audit log cannot be written: its last events are lost", extra={"events": left})


class _Seldom:
    """Says something at most once a minute."""

    def __init__(self) -> None:
        self._next = 0.0

    def say(self, what: Callable[[], None]) -> None:
        """Call `what`, unless that was done a moment ago."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + _SAY_EVERY
            what()
