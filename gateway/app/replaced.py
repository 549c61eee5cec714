"""Files that were replaced on the host under a bind mount: a container sees the old ones until it starts again."""

import re
from collections.abc import Iterable
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
_DELETED = "//deleted"
"""What the kernel appends to the root of a mount that is unlinked (proc_pid_mountinfo(5), d_path)."""


def replaced(files: Iterable[Path], mounts: str) -> list[str]:
    """A sentence for each of these files that is no longer the host's.

    Args:
        files: Files that are read, without symbolic links.
        mounts: `/proc/self/mountinfo`.
    """
    gone: dict[str, bool] = {}
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 4:
            # A later mount at the same point covers the earlier one.
            gone[_unescaped(fields[4])] = _unescaped(fields[3]).endswith(_DELETED)
    found = []
    for path in sorted(set(files)):
        point = next((each for each in (path, *path.parents) if str(each) in gone), None)
        if point is not None and gone[str(point)]:
            what = f"{path} was replaced on the host" if point == path else f"{point} was replaced on the host"
            found.append(
                f"{what}, and this container still sees the old one: restart the container, and mount"
                f" {'the folder of the file instead of the file' if point == path else 'a folder that stays'}"
            )
    return list(dict.fromkeys(found))


def look(files: Iterable[Path]) -> list[str]:
    """As `replaced`, for this process, now; may block."""
    try:
        return replaced([each.resolve() for each in files], MOUNTS.read_text(errors="surrogateescape"))
    except OSError:  # no Linux, or a hardened /proc: nothing is known
        return []


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), text)
