"""Reads files that a VPN's operator provides, without blocking on devices or FIFOs, and up to a maximum size."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import GatewayError

MAX_CONFIG_SIZE = 1 << 18
"""Maximum size of a VPN's configuration file, in bytes. Parsing a larger file would take too long."""


@dataclass(frozen=True)
class LoadedFile:
    """A file that was read, with its path and status.

    Args:
        path: The path of the file, without symbolic links.
        data: The content of the file.
        status: The result of fstat(2) for the open file.
    """

    path: Path
    data: bytes
    status: os.stat_result


def read_regular_file(path: Path, max_size: int, directory: Path | None = None) -> LoadedFile:
    """Read a regular file.

    The function checks the type of the file with O_PATH (open(2)), so it never opens a device or FIFO for reading.

    Args:
        path: Path of the file.
        max_size: Maximum size, in bytes.
        directory: The file must be in this directory or in a subdirectory, even if `path` contains symbolic links.
            The path of the directory must not contain symbolic links. None permits all directories.

    Raises:
        OSError: The file is missing or not readable.
        GatewayError: The file is outside the directory, not a regular file, or too large.
    """
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        link = Path(f"/proc/self/fd/{handle}")
        status, target = os.fstat(handle), link.readlink()
        if directory is not None and not target.is_relative_to(directory):
            raise GatewayError(
                f"{path} is not in {directory}: copy it there, or put its content into an inline block"
            )
        if stat.S_ISREG(status.st_mode):
            with link.open("rb") as file:
                data = file.read(max_size + 1)
            if len(data) <= max_size:
                return LoadedFile(target, data, status)
        raise GatewayError(f"{target} is not a regular file of at most {max_size >> 10} KiB")
    finally:
        os.close(handle)
