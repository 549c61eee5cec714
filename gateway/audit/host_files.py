"""Reads the mount table, mounted directories and image files of this host, if the engine runs on it.

The module opens no path on a network file system. System calls there can block if the server does not respond.
"""

import errno
import itertools
import os
import posixpath
import re
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from gateway.audit.database_files import in_files
from gateway.audit.model import HostMount, HostPath
from gateway.audit.mount_storage import StorageMedium, medium_of, mount_above, split_options

MOUNT_TABLE = Path("/proc/self/mountinfo")
_MOST_NAMES = 2000
"""The maximum number of names to read below a directory. After that, the audit reads no further subdirectory."""
_MOST_ENTRIES = 10000
_MOST_LEVELS = 3
_MOST_LINKS = 40
_ESCAPE = re.compile(r"\\([0-7]{3})")
_KINDS: Mapping[int, Literal["directory", "file", "socket", "other"]] = {
    stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFSOCK: "socket",
}  # fmt: skip


def parse_mounts(text: str) -> tuple[HostMount, ...]:
    """Parse a mount table (proc_pid_mountinfo(5)). Skip lines in another format."""
    return tuple(filter(None, map(_parse_line, text.splitlines())))


def _parse_line(line: str) -> HostMount | None:
    before, _, after = line.partition(" - ")
    fields, more = before.split(" "), after.split(" ")
    if len(fields) < 6 or len(more) < 2:
        return None
    options = split_options(fields[5]) | split_options(more[2] if len(more) > 2 else "")
    return HostMount(_unescape(fields[4]), more[0], _unescape(more[1]), options)


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def stale_files(text: str) -> set[str]:
    """Return the mount points in a container's mount table whose files were removed or replaced on the host."""
    fields = (line.split(" ") for line in text.splitlines())
    return {_unescape(each[4]) for each in fields if len(each) > 4 and each[3].endswith("//deleted")}


class HostFiles:
    """Reads files and directories of this host, until a deadline.

    Args:
        mounts: The host's mount table.
        deadline: When to stop reading directories, in monotonic seconds.
    """

    def __init__(self, mounts: tuple[HostMount, ...], deadline: float) -> None:
        self.mounts = mounts
        self._deadline = deadline
        self._network = {each.point for each in mounts if _is_remote(each)}

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed. After the deadline, directories are not read."""
        return time.monotonic() > self._deadline

    def is_local(self, path: str) -> bool:
        """Return whether a path is on a local file system. The path must not contain symbolic links."""
        above = mount_above(self.mounts, path)
        return above is not None and not _is_remote(above)

    def resolve(self, path: str) -> str:
        """Resolve the symbolic links in a path. Stop at the first part that is not on a local file system."""
        parts, done, links = [each for each in path.split("/") if each], "/", 0
        while parts:
            part = parts.pop(0)
            if part == "..":
                done = posixpath.dirname(done)
                continue
            following = posixpath.join(done, part)
            if not self.is_local(following):
                return posixpath.join(following, *parts)
            try:
                target = str(Path(following).readlink())
            except OSError:
                done = following
                continue
            links += 1
            if links > _MOST_LINKS:
                return path
            parts[:0] = [each for each in target.split("/") if each]
            done = "/" if target.startswith("/") else done
        return done

    def inspect(self, path: str) -> HostPath | None:
        """Return the file or directory at a path; None if it does not exist, is not local, or cannot be read."""
        if not self.is_local(path):
            return None
        try:
            status = os.lstat(path)
            has_acl = "system.posix_acl_access" in os.listxattr(path, follow_symlinks=False)
        except OSError:
            return None
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
        entries, database = self._read(path) if kind == "directory" else (None, "")
        mode = stat.S_IMODE(status.st_mode)
        return HostPath(kind, status.st_uid, status.st_gid, mode, has_acl, entries, database)

    def database_below(self, path: str) -> str:
        """Return the kind of database whose files are in a directory of a container; empty if no kind is known."""
        return "" if Path(path).is_symlink() else self._read(path)[1]

    def _read(self, top: str) -> tuple[frozenset[str] | None, str]:
        """Return the names in a directory, and the kind of database whose files are at any level below it."""
        entries: frozenset[str] | None = None
        waiting, names = [("", 0)], list[str]()
        while waiting and len(names) < _MOST_NAMES and not self.is_late:
            inner, level = waiting.pop(0)
            try:
                with os.scandir(posixpath.join(top, inner) if inner else top) as listing:
                    found = list(itertools.islice(listing, _MOST_ENTRIES + 1))
            except OSError:
                continue
            if not inner and len(found) <= _MOST_ENTRIES:
                entries = frozenset(each.name for each in found)
            for each in found:
                name = f"{inner}/{each.name}" if inner else each.name
                if not each.name.endswith(".db") or _is_sqlite(each):
                    names.append(name)
                if level < _MOST_LEVELS and each.is_dir(follow_symlinks=False) and each.path not in self._network:
                    waiting.append((name, level + 1))
        return entries, in_files(names)[0]


def read_start(path: str, size: int) -> bytes:
    """Return the first bytes of a regular file. Do not block, even if a container has replaced the file by a FIFO.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
    with open(number, "rb") as file:  # noqa: PTH123 - `number` is a file descriptor
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(size)


def _is_remote(mount: HostMount) -> bool:
    return medium_of(mount.file_system) not in (StorageMedium.LOCAL, StorageMedium.MEMORY)


def _is_sqlite(entry: "os.DirEntry[str]") -> bool:
    """Return whether a file has the header of SQLite ("Database File Format", section 1.3), or cannot be read."""
    try:
        if not entry.is_file(follow_symlinks=False):
            return False
        return read_start(entry.path, 16) == b"SQLite format 3\0"
    except OSError:
        return True
