"""Creates locked runtime directories, and removes the directories and sockets of killed gateways."""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from gateway.errors import FailureReason, TunnelError

_LOCK = "lock"
_RUN = Path("/run/gateway")
"""Directory to use if the directory for temporary files is not writable, for example in a read-only container."""
_MIN_AGE = 30.0
"""Minimum age, in seconds, of directories and sockets that the cleanup removes. A younger directory or socket can
belong to a gateway that is still starting."""


class RuntimeDirectory:
    """A temporary directory for the files of this process, with a lock that marks it as in use.

    The constructor also removes the directories of killed gateways.

    Args:
        prefix: Prefix of the directory names. No other program uses this prefix.

    Raises:
        TunnelError: The directory cannot be created; fatal if a later attempt would fail too.
    """

    def __init__(self, prefix: str) -> None:
        parent = _writable_directory()
        for old in parent.glob(f"{prefix}*"):
            with contextlib.suppress(OSError):
                _remove_if_stale(old)
        try:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))  # mkdtemp sets mode 0700
            self._lock = _lock(self.path)
        except OSError as error:
            permanent = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)
            detail = f"{error}: make the directory for temporary files (TMPDIR) or {_RUN} writable"
            raise TunnelError(
                FailureReason.PERMISSION if permanent else FailureReason.PROTOCOL, detail, fatal=permanent
            ) from error

    def close(self) -> None:
        """Remove the directory, and release the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _lock(directory: Path) -> int:
    """Mark a new directory as in use, and return the descriptor of its lock. If this fails, remove the directory."""
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, directory, ignore_errors=True)
        lock = os.open(directory / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, lock)
        # The kernel releases the lock when the descriptor is closed or the process exits (flock(2)).
        fcntl.flock(lock, fcntl.LOCK_EX)
        undo.pop_all()
    return lock


def _writable_directory() -> Path:
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError:
        return _RUN
    return temporary if os.access(temporary, os.W_OK | os.X_OK) else _RUN


def _remove_if_stale(directory: Path) -> None:
    status = directory.lstat()
    if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _MIN_AGE:
        return
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(directory)
    finally:
        os.close(lock)


def remove_stale_sockets(directory: Path, pattern: str) -> None:
    """Remove the unix sockets on which no process listens, if they are older than 30 s.

    Args:
        directory: The directory that contains the sockets.
        pattern: Glob pattern for the names of the sockets. Other programs must not use names that match the
            pattern.
    """
    for path in directory.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _MIN_AGE and _refuses_connections(path):
                path.unlink()


def _refuses_connections(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except ConnectionRefusedError:
            return True
        return False
