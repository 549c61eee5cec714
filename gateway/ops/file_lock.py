"""Locks a file, so that only one process at a time uses the data that the file protects."""

import fcntl
import os
from pathlib import Path


def lock_file(path: Path) -> int:
    """Lock a file, and return its descriptor. Closing the descriptor unlocks the file.

    Args:
        path: The file. The file and its parent directories are created if necessary.

    Raises:
        BlockingIOError: Another process has locked the file.
        OSError: The file cannot be created or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
