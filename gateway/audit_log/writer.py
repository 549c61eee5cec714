"""Writes the audit log in a separate thread, so that a full or unresponsive disk does not delay traffic."""

import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from gateway.audit_log.events import AuditLogEvent, encode_line
from gateway.audit_log.log_destination import LogDestination

log = logging.getLogger(__name__)

_BATCH_DELAY = 0.05
"""Seconds that the writer waits for further events, so that one write contains several events."""
_RETRY_DELAY = 1.0
_LOG_INTERVAL = 60.0
_STUCK_AFTER = 5.0
"""Seconds after which `fault` reports that a write has not ended."""
MISCONFIGURED = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP,
        errno.ENAMETOOLONG, errno.ENXIO, errno.EBADF,
    }
)  # fmt: skip
"""Error numbers that indicate a wrong configuration. Other errors indicate a full or faulty disk."""


class AuditLogWriter:
    """Queues events from the event loop, and writes them to the audit log in a separate thread.

    Implements `gateway.audit_log.recorder.EventSink`.

    Args:
        target: The path of a file or FIFO, or `stdout` or `stderr`.
        instance: This gateway's name, for the field `instance` of each line.
        max_queued: Maximum number of queued events. The writer drops and counts further events.
    """

    def __init__(self, target: Path | str, instance: str, max_queued: int) -> None:
        self.dropped = 0
        """Number of events that were dropped."""
        self.opened = threading.Event()
        """Set after the first attempt to open the destination of the audit log."""
        self.error: OSError | None = None
        """Error of the last attempt to open or write; None if it succeeded."""
        self._target = target
        self._destination = LogDestination(target)
        self._instance = instance
        self._max_queued = max_queued
        self._lock = threading.Lock()
        self._queue: list[AuditLogEvent] = []
        self._unreported = 0
        """Number of dropped events to report in the next event `dropped`."""
        self._reported_in_line = 0
        """The number in the event `dropped` whose line is in `_writing`; 0 if there is no such line."""
        self._lost = 0
        """Number of events that were dropped when the writer was closed or failed."""
        self._writing: deque[bytes] = deque()
        """Encoded lines that the writer's thread has taken from the queue, but not written yet."""
        self._progress = time.monotonic()
        self._reopen = False
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._queue_full_log = _OncePerMinute()
        self._write_error_log = _OncePerMinute()
        self._thread = threading.Thread(target=self._run, name="audit log", daemon=True)
        self._thread.start()

    def put(self, event: AuditLogEvent) -> None:
        """Queue an event. If the queue is full, count the event as dropped. See `EventSink.put`."""
        with self._lock:
            full = len(self._queue) >= self._max_queued
            if full:
                self.dropped += 1
                self._unreported += 1
            else:
                self._queue.append(event)
        if full:
            self._queue_full_log.call(
                lambda: log.error("audit log queue full: events dropped", extra=self._details())
            )
        elif not self._wake.is_set():
            self._wake.set()

    def reopen(self) -> None:
        """Reopen the destination before the next write. Call this method when the file may have been rotated."""
        self._reopen = True

    @property
    def fault(self) -> str | None:
        """The reason why the audit log cannot be written now, in one line; None if there is no fault."""
        error = self.error
        if not self.alive and not self._closing.is_set():
            return f"the audit log {self._target} is not written, because its thread has ended: restart the gateway"
        if error is not None:
            return f"the audit log {self._target} cannot be written: {error.strerror or error}"
        if not self.opened.is_set():
            return (
                f"the audit log {self._target} cannot be opened: "
                "it is a FIFO without a reader, or the file system does not respond"
            )
        stuck = time.monotonic() - self._progress
        if self._writing and stuck > _STUCK_AFTER:
            return f"the audit log {self._target} has accepted no data for {stuck:.0f} s"
        return None

    @property
    def lost(self) -> int:
        """Number of dropped events that no event `dropped` reports. Valid after the close of the writer."""
        return self._lost + self._unreported

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def begin_close(self) -> None:
        """Ask the thread to write the queued events and to exit. `alive` becomes False when the thread exits."""
        self._closing.set()
        self._wake.set()

    def abandon(self) -> None:
        """Drop all unwritten events. Call this method if the thread did not exit in time."""
        with self._lock:
            left = self._drop_rest()
        if left:
            log.error("audit log incomplete: last events lost", extra={"events": left})

    def _details(self) -> dict[str, object]:
        return {"file": str(self._target), "dropped": self.dropped, "detail": self.fault or "the disk is too slow"}

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            log.exception("audit log thread failed: events dropped")
            self._max_queued = 0
            self.abandon()

    def _work(self) -> None:
        try:
            self._destination.open()
        except OSError as error:
            self.error = error
        self.opened.set()
        while not self._is_finished():
            self._wake.wait()
            self._closing.wait(_BATCH_DELAY)
            self._wake.clear()
            self._encode_queued()
            self._write_all()
        self._destination.close()

    def _is_finished(self) -> bool:
        return self._closing.is_set() and not self._queue and not self._unreported

    def _encode_queued(self) -> None:
        with self._lock:
            events, self._queue = self._queue, []
            unreported, self._unreported = self._unreported, 0
        if unreported:  # append `dropped`, because these drops happened after the other events were queued
            events.append(AuditLogEvent(time.time(), "dropped", {"count": unreported, "reason": "queue_full"}))
            self._reported_in_line = unreported
        self._progress = time.monotonic()
        for each in events:
            try:
                self._writing.append(encode_line(each, self._instance))
            except Exception:
                log.exception("audit event cannot be encoded", extra={"event": each.name})
                self._record_not_encodable()

    def _record_not_encodable(self) -> None:
        with self._lock:
            self.dropped += 1
            if len(self._queue) >= self._max_queued:
                self._unreported += 1
            else:
                self._queue.append(AuditLogEvent(time.time(), "dropped", {"count": 1, "reason": "not_encodable"}))
        self._wake.set()

    def _write_all(self) -> None:
        """Write all lines, and retry after errors. After `begin_close`, retry once, then drop the remaining lines."""
        last = False
        while self._writing:
            try:
                if self._reopen:
                    self._reopen = False
                    self._destination.open()
                self._destination.write(self._writing)
            except OSError as error:
                self.error = error
                self._write_error_log.call(lambda: log.error("cannot write to the audit log", extra=self._details()))
                if last:
                    self._drop_all()
                    return
                last = self._closing.wait(_RETRY_DELAY)
            else:
                self._progress = time.monotonic()
                if not self._writing:
                    self._reported_in_line = 0
                if self.error is not None:
                    self.error = None
                    log.info("writing to the audit log works again", extra={"file": str(self._target)})

    def _drop_all(self) -> None:
        with self._lock:
            left = self._drop_rest()
        self._writing.clear()
        log.error("cannot write to the audit log: last events lost", extra={"events": left})

    def _drop_rest(self) -> int:
        """Count all unwritten events as dropped, and return their number. The caller must hold the lock."""
        left = len(self._queue) + len(self._writing) - (self._reported_in_line > 0)
        self.dropped += left
        self._lost += left + self._unreported + self._reported_in_line
        self._queue, self._unreported, self._reported_in_line = [], 0, 0
        return left


class _OncePerMinute:
    """Calls a function at most once per minute."""

    def __init__(self) -> None:
        self._next = 0.0

    def call(self, action: Callable[[], None]) -> None:
        """Call `action`, unless this method has called an action in the last minute."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + _LOG_INTERVAL
            action()
