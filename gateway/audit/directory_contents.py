"""Lists a directory, and finds databases and private keys in it by file name and content.

A container can replace a file at any time. Therefore, the functions do not follow symbolic links, and do not wait for
a writer when they open a FIFO.
"""

import errno
import itertools
import os
import posixpath
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass

from gateway.audit.database_files import in_files
from gateway.audit.host_filesystem_model import FoundPrivateKey
from gateway.audit.private_keys import (
    LARGEST,
    KeyKind,
    by_content,
    by_name,
    is_candidate,
    is_companion,
    is_name_of_candidate,
)

_MOST_NAMES = 2000
"""The maximum number of names to read below a directory. At this limit, the audit reads no more subdirectories."""
_MOST_ENTRIES = 10000
_MOST_LEVELS = 3
_MOST_OPENED = 200
"""The maximum number of files that the audit opens below a directory to find private keys."""


@dataclass(frozen=True)
class DirectoryContents:
    """The names in a directory, and the database or private key that was found in it.

    Args:
        entries: The names in the directory; None if there are too many, or if the directory cannot be read.
        database: The kind of database whose files are in the directory or a few levels below; empty if there is none.
        key: A private key in the directory or a few levels below; None if none was found, or if there is a database.
        is_complete: Whether all names down to the third level of subdirectories, and all files that can be private
            keys, were read. Also True if a database was found, because other files cannot change this result.
    """

    entries: frozenset[str] | None = None
    database: str = ""
    key: FoundPrivateKey | None = None
    is_complete: bool = True


def read_directory(top: str, skipped: Collection[str], is_late: Callable[[], bool]) -> DirectoryContents:
    """Read a directory and three levels of its subdirectories. Blocks the thread.

    Args:
        top: The path of the directory.
        skipped: Paths of directories that must not be opened.
        is_late: Returns whether the deadline has passed. If so, no further directory is read.
    """
    reader = _DirectoryReader(top)
    while reader.waiting and len(reader.names) < _MOST_NAMES and not is_late():
        reader.read_next(skipped)
    database = in_files(reader.names)[0]
    is_complete = bool(database) or not (reader.is_truncated or reader.waiting)
    # If there is a database, do not report private keys: databases create TLS keys in their data directories.
    return DirectoryContents(reader.entries, database, None if database else reader.first_key(), is_complete)


class _DirectoryReader:
    """Reads the names in a directory and its subdirectories, one directory at a time, and searches for private keys.

    Args:
        top: The path of the directory.
    """

    def __init__(self, top: str) -> None:
        self.waiting = [("", 0)]
        self.names: list[str] = []
        self.entries: frozenset[str] | None = None
        self.is_truncated = False
        self._top = top
        self._keys: dict[str, KeyKind] = {}
        self._opened = 0
        self._has_other_files = False

    def read_next(self, skipped: Collection[str]) -> None:
        """Read the first directory in `waiting`, and append its subdirectories to `waiting`."""
        inner, level = self.waiting.pop(0)
        try:
            with os.scandir(posixpath.join(self._top, inner) if inner else self._top) as listing:
                found = list(itertools.islice(listing, _MOST_ENTRIES + 1))
        except OSError:
            return
        self.is_truncated |= len(found) > _MOST_ENTRIES
        if not inner and not self.is_truncated:
            self.entries = frozenset(each.name for each in found)
        for each in found:
            name = f"{inner}/{each.name}" if inner else each.name
            if not each.name.endswith(".db") or _is_sqlite(each):
                self.names.append(name)
            if not each.is_dir(follow_symlinks=False):
                self._read_file(each, name)
            elif level < _MOST_LEVELS and each.path not in skipped:
                self.waiting.append((name, level + 1))

    def _read_file(self, entry: "os.DirEntry[str]", name: str) -> None:
        kind = None
        if _is_candidate(entry):
            self._opened += 1
            self.is_truncated |= self._opened > _MOST_OPENED
            kind = _key_in(entry.path) if self._opened <= _MOST_OPENED else None
        if kind is not None:
            self._keys[name] = kind
        elif not is_companion(name):
            self._has_other_files = True

    def first_key(self) -> FoundPrivateKey | None:
        """Return the private key that is nearest to the top directory; None if no private key was found."""
        path = min(self._keys, key=lambda each: (each.count("/"), each), default=None)
        return None if path is None else FoundPrivateKey(self._keys[path], path, not self._has_other_files)


def file_key(path: str, status: os.stat_result) -> FoundPrivateKey | None:
    """Return the private key in a regular file; None if the file contains no private key.

    Args:
        path: The path of the file.
        status: The result of a `stat` call for the file.
    """
    kind = _key_in(path) if is_candidate(posixpath.basename(path), status.st_mode, status.st_size) else None
    return None if kind is None else FoundPrivateKey(kind)


def _is_candidate(entry: "os.DirEntry[str]") -> bool:
    """Return whether a file is a regular file whose name, size and mode are typical of a private key."""
    if not is_name_of_candidate(entry.name):
        return False
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and is_candidate(entry.name, status.st_mode, status.st_size)


def _key_in(path: str) -> KeyKind | None:
    """Return the kind of key in a file; None if there is no key. If the file is not readable, use only its name."""
    try:
        return by_content(read_start(path, LARGEST), path)
    except OSError:
        return by_name(path)


def _is_sqlite(entry: "os.DirEntry[str]") -> bool:
    """Return whether a file is a SQLite database ("Database File Format", section 1.3).

    Also return True if the file is not readable.
    """
    try:
        if not entry.is_file(follow_symlinks=False):
            return False
        return read_start(entry.path, 16) == b"SQLite format 3\0"
    except OSError:
        return True


def read_start(path: str, size: int) -> bytes:
    """Return the first bytes of a regular file. Do not block, even if a container has replaced the file with a FIFO.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
    with open(number, "rb") as file:  # noqa: PTH123 - `number` is a file descriptor
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(size)
