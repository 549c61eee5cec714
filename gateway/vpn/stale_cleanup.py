"""Folders and sockets that a gateway which was killed left behind, told apart from those of one that lives."""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from gateway.errors import Reason, TunnelError

_LOCK = "lock"
_RUN = Path("/run/gateway")
"""Where a container whose root is read-only, and which has no /tmp, can still write."""
_YOUNG = 30.0
"""Seconds for which something may still be about to be locked, or listened at."""


class OwnFolder:
    """A folder below the temporary one, which nobody sweeps while this process lives.

    Args:
        prefix: What its name begins with; those of gateways that were killed are removed.

    Raises:
        TunnelError: It cannot be made anywhere.
    """

    def __init__(self, prefix: str) -> None:
        above = _writable()
        for old in above.glob(f"{prefix}*"):
            with contextlib.suppress(OSError):
                _sweep(old)
        try:
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=above))  # mode 0700
        except OSError as error:
            lasting = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)
            told = f"{error}: it needs a folder to write in, the temporary one or {_RUN}"
            raise TunnelError(Reason.PERMISSION if lasting else Reason.PROTOCOL, told, fatal=lasting) from error
        # Held as long as the descriptor, which ends with the process (flock(2)).
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _writable() -> Path:
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError:
        return _RUN
    return temporary if os.access(temporary, os.W_OK | os.X_OK) else _RUN


def _sweep(folder: Path) -> None:
    status = folder.lstat()
    if status.st_uid != os.geteuid() or time.time() - status.st_mtime < _YOUNG:
        return
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def sweep_sockets(folder: Path, pattern: str) -> None:
    """Remove sockets at which nobody listens any more.

    Args:
        folder: Where they are.
        pattern: What they are called; only we call anything so.
    """
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > _YOUNG and _abandoned(path):
                path.unlink()


def _abandoned(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(path))
        except ConnectionRefusedError:
            return True
        return False
