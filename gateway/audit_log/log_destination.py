"""Writes to the destination of the audit log: a file, a FIFO, standard output or standard error."""

import os
import select
import stat
from collections import deque
from pathlib import Path

_STANDARD = {"stdout": 1, "stderr": 2}
_MODE = 0o600
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
_MAX_WRITE = 64 * 1024
"""Maximum number of bytes per write to a file. For a pipe, the limit is PIPE_BUF, because the kernel does not mix
writes of up to this size with the writes of other processes (pipe(7))."""
_POLL_TIMEOUT = 1000
"""Maximum time, in milliseconds, to wait until a full pipe is writable again. The wait is necessary if another
process has made the pipe non-blocking."""


class LogDestination:
    """The destination of the audit log. All methods can block: call them from one thread only.

    Args:
        target: The path of a file or FIFO, or `stdout` or `stderr`.
    """

    def __init__(self, target: Path | str) -> None:
        self._target = target
        self._fd: int | None = None
        self._file: tuple[int, int] | None = None
        """Device number and inode number of the open regular file; None for other destinations."""
        self._first_line_written = 0
        """Number of bytes of the next line that are already written; 0 if the last write ended with a complete
        line."""

    def open(self) -> None:
        """Open or reopen the destination.

        Raises:
            OSError: The destination cannot be opened.
        """
        self.close()
        if isinstance(self._target, str):
            self._fd = _STANDARD[self._target]
            return
        fd = os.open(self._target, _FLAGS, _MODE)
        status = os.fstat(fd)
        file = (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
        if file is None or file != self._file:
            # The opened file or FIFO contains no part of the next line. Therefore, write the whole line.
            self._first_line_written = 0
        self._fd, self._file = fd, file
        if file is not None and not self._first_line_written and status.st_size and _ends_mid_line(self._target):
            try:
                os.write(fd, b"\n")  # end the last line, which a killed process did not complete
            except OSError:
                self.close()  # makes the next call of `write` open the file again
                raise

    def close(self) -> None:
        """Close the file or FIFO. Do not close a standard stream."""
        if self._fd is not None and not isinstance(self._target, str):
            os.close(self._fd)
        self._fd = None

    def write(self, lines: deque[bytes]) -> None:
        """Write `lines`. Remove each line from `lines` when the line is written completely.

        Raises:
            OSError: A write failed. `lines` contains the lines that were not written completely. If a part of the
                first line was written, the next call writes the rest of the line. Exception: if the next call opens
                another file or a FIFO, it writes the whole line.
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
        """Return whether the open file was renamed or removed, for example by logrotate."""
        if self._file is None or isinstance(self._target, str):
            return False
        try:
            status = os.stat(self._target)  # noqa: PTH116 - os.stat does the same as Path.stat
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._file

    def _write_some(self, lines: deque[bytes]) -> None:
        limit = _MAX_WRITE if self._file is not None else select.PIPE_BUF
        batch = bytearray()
        for each in lines:
            if batch and len(batch) + len(each) > limit:
                break
            batch += each
        fd = self._fd if self._fd is not None else -1
        try:
            written = os.write(fd, memoryview(batch)[self._first_line_written :])
        except BlockingIOError:
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            poller.poll(_POLL_TIMEOUT)
            return
        written += self._first_line_written
        while lines and written >= len(lines[0]):
            written -= len(lines.popleft())
        self._first_line_written = written


def _ends_mid_line(path: Path) -> bool:
    """Return whether the last line of a file has no newline; False if the file is empty or cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False
