"""Files that hold private keys: nobody else may read them."""

import os
import stat
from pathlib import Path

from gateway.errors import Reason, TunnelError


def check_private(path: Path) -> bytes:
    """Read a private key, unless others can read it too, as OpenSSH does.

    A file that belongs to another user (a mounted secret) may be readable by its group, never by everybody. It is
    opened once: what is checked is what is read, whatever takes its place meanwhile.

    Raises:
        TunnelError: With the command that corrects it; fatal.
    """
    try:
        with path.open("rb") as file:
            refuse_readable(path, os.fstat(file.fileno()))
            return file.read()
    except OSError as error:
        raise TunnelError(Reason.AUTH, f"{path}: {error.strerror}", fatal=True) from error


def refuse_readable(path: Path, status: os.stat_result) -> None:
    """Refuse a private key that others can read, where it is known only from its content that it is one.

    Args:
        path: For the message.
        status: Of the descriptor from which the content was read.

    Raises:
        TunnelError: With the command that corrects it; fatal.
    """
    ours = status.st_uid == os.geteuid()
    mode = stat.S_IMODE(status.st_mode)
    if mode & (0o077 if ours else 0o007):
        remedy = f"chmod 600 {path}" if ours else "mount it with mode 0400 (or 0440 for its group)"
        raise TunnelError(
            Reason.AUTH,
            f"{path}: the private key is readable by others (mode {mode:04o}): {remedy}",
            fatal=True,
        )
