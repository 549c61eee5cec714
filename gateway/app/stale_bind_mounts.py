"""Finds bind-mounted files that were replaced on the host. The container still reads the old files."""

import os
from collections.abc import Iterable
from pathlib import Path

from gateway.octal_escapes import unescaped

MOUNTS = Path("/proc/self/mountinfo")
_DELETED = "//deleted"
"""The kernel appends this suffix to the field `root` of the mount table if the mounted file was unlinked
(proc_pid_mountinfo(5), d_path)."""


def stale_files(files: Iterable[Path], mounts: str) -> list[str]:
    """Return a warning for each file that was replaced on the host. Does no I/O.

    Args:
        files: The files to check, with all symbolic links resolved.
        mounts: The content of `/proc/self/mountinfo`.
    """
    deleted: dict[str, bool] = {}
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 4:
            # If two mounts have the same mount point, the later one is the visible one.
            deleted[unescaped(fields[4])] = unescaped(fields[3]).endswith(_DELETED)
    found = []
    for path in sorted(set(files)):
        point = next((each for each in (path, *path.parents) if str(each) in deleted), None)
        if point is not None and deleted[str(point)]:
            remedy = "the file's folder, not the file" if point == path else "a parent folder that is not replaced"
            found.append(
                f"{point} was replaced on the host, but this container still sees the old one: restart the"
                f" container, and mount {remedy}"
            )
    return list(dict.fromkeys(found))


def find_stale_files(files: Iterable[Path]) -> list[str]:
    """Return a warning for each file that was replaced on the host.

    Blocks while it resolves symbolic links and reads the mount table.
    """
    try:
        # Before Python 3.13, `Path.resolve` raises RuntimeError for a symbolic link to itself.
        resolved = [Path(os.path.realpath(each)) for each in files]
        return stale_files(resolved, MOUNTS.read_text(errors="surrogateescape"))
    except OSError:  # the system is not Linux, or does not permit reading /proc
        return []
