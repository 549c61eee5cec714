"""Where the lines go: a file that may be rotated, a FIFO, standard output or standard error. May block."""

import os
import select
import stat
from collections import deque
from pathlib import Path

_STANDARD = {"stdout": 1, "stderr": 2}
_MODE = 0o600
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
_PIECE = 64 * 1024
"""Bytes of one write to a file; to a pipe it is PIPE_BUF, within which lines of several writers do not mix."""
_POLL = 1000
"""Milliseconds of one wait for a pipe that somebody made non-blocking."""


class Destination:
    """One target of the log; used by one thread.

    Args:
        target: A path, or `stdout` or `stderr`.
    """

    def __init__(self, target: Path | str) -> None:
        self._target = target
        self._fd: int | None = None
        self._file: tuple[int, int] | None = None
        """Device and inode of a regular file."""
        self._first_line_written = 0
        """Bytes of the first line that are written already."""

    def open(self) -> None:
        """Open it again, or for the first time.

        Raises:
            OSError: It cannot be opened.
        """
        self.close()
        if isinstance(self._target, str):
            self._fd = _STANDARD[self._target]
            return
        fd = os.open(self._target, _FLAGS, _MODE)
        status = os.fstat(fd)
        file = (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
        if file is None or file != self._file:
            self._first_line_written = 0  # the rest of a line is of no use elsewhere
        self._fd, self._file = fd, file
        if file is not None and not self._first_line_written and status.st_size and _torn(self._target):
            try:
                os.write(fd, b"\n")  # a full disk ended a process in the middle of a line
            except OSError:
                self.close()  # so that the next write begins with this again
                raise

    def close(self) -> None:
        """Close it; a standard stream stays open."""
        if self._fd is not None and not isinstance(self._target, str):
            os.close(self._fd)
        self._fd = None

    def write(self, lines: deque[bytes]) -> None:
        """Write `lines` and remove each once all of it is written.

        Raises:
            OSError: What is left in `lines` is not written; of the first, the next call writes only the rest.
        """
        if self._fd is None or self._rotated():
            self.open()
        try:
            while lines:
                self._write_some(lines)
        except OSError:
            self.close()
            raise

    def _rotated(self) -> bool:
        """Whether the path leads to another file now, or to none."""
        if self._file is None or isinstance(self._target, str):
            return False
        try:
            status = os.stat(self._target)  # noqa: PTH116 - a Path's would do the same
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._file

    def _write_some(self, lines: deque[bytes]) -> None:
        most = _PIECE if self._file is not None else select.PIPE_BUF
        piece = bytearray()
        for each in lines:
            if piece and len(piece) + len(each) > most:
                break
            piece += each
        fd = self._fd if self._fd is not None else -1
        try:
            written = os.write(fd, memoryview(piece)[self._first_line_written :])
        except BlockingIOError:
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            poller.poll(_POLL)
            return
        written += self._first_line_written
        while lines and written >= len(lines[0]):
            written -= len(lines.popleft())
        self._first_line_written = written


def _torn(path: Path) -> bool:
    """Whether the last line of a file has no end, as far as this process may read it."""
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False
