"""Writes files atomically: after a crash, a file has either its old or its new content."""

import contextlib
import os
from pathlib import Path


def replace_file(path: Path, text: str) -> None:
    """Write a file so that a crash leaves either the old or the new content. Create missing parent directories.

    Args:
        path: The file.
        text: The new content, which is written as UTF-8.

    Raises:
        OSError: The file cannot be written. The file still has its old content.
    """
    temporary = path.with_suffix(".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
