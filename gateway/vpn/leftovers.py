"""What a gateway that was killed left in the file system: sockets at which nobody listens any more."""

import contextlib
import shutil
import socket
from pathlib import Path


def sweep(folder: Path, pattern: str) -> None:
    """Remove the sockets of ours that nobody listens at, or the folders that hold one.

    Args:
        folder: Where they are.
        pattern: What they are called; only we call anything so.
    """
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            if _abandoned(next(path.glob("*.sock"), None) if path.is_dir() else path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _abandoned(path: Path | None) -> bool:
    if path is None:
        return False  # somebody may be about to make it
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except ConnectionRefusedError:
            return True
        return False
