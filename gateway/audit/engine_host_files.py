"""Parses mount tables, and reads files and directories of the engine's host.

The module opens no path on a network file system, because opening a path blocks while the file server does not
respond.
"""

import os
import posixpath
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from gateway.audit.directory_contents import DirectoryContents, file_key, read_directory
from gateway.audit.host_filesystem_model import HostMount, HostPath
from gateway.audit.storage_behind_mount import StorageMedium, medium_of, mount_above, split_options
from gateway.octal_escapes import unescaped

MOUNT_TABLE = Path("/proc/self/mountinfo")
_MOST_LINKS = 40
_KINDS: Mapping[int, Literal["directory", "file", "socket", "other"]] = {
    stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFSOCK: "socket",
}  # fmt: skip


def parse_mounts(text: str) -> tuple[HostMount, ...]:
    """Parse a mount table (proc_pid_mountinfo(5)). Skip lines that do not have this format."""
    return tuple(filter(None, map(_parse_line, text.splitlines())))


def _parse_line(line: str) -> HostMount | None:
    before, _, after = line.partition(" - ")
    fields, more = before.split(" "), after.split(" ")
    if len(fields) < 6 or len(more) < 2:
        return None
    options = split_options(fields[5]) | split_options(more[2] if len(more) > 2 else "")
    return HostMount(unescaped(fields[4]), more[0], unescaped(more[1]), options)


def stale_files(text: str) -> set[str]:
    """Return the mount points of files that were removed or replaced on the host after a container mounted them.

    Args:
        text: The container's mount table (proc_pid_mountinfo(5)).
    """
    fields = (line.split(" ") for line in text.splitlines())
    return {unescaped(each[4]) for each in fields if len(each) > 4 and each[3].endswith("//deleted")}


class EngineHostFiles:
    """Reads files and directories of this host, until a deadline.

    Args:
        mounts_by_point: The host's mount table. The keys are the mount points.
        deadline: The time at which to stop reading directories, in seconds on the monotonic clock.
    """

    def __init__(self, mounts_by_point: Mapping[str, HostMount], deadline: float) -> None:
        self.truncated: list[str] = []
        """The names of directories that contain too many files. Some of these files were not read."""
        self._mounts = mounts_by_point
        self._deadline = deadline
        self._network = {point for point, each in mounts_by_point.items() if _is_remote(each)}

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed. After the deadline, directories are not read."""
        return time.monotonic() > self._deadline

    def is_local(self, path: str) -> bool:
        """Return whether a path is on a local file system. The path must not contain symbolic links."""
        above = mount_above(self._mounts, path)
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
        """Return the properties of the file or directory at a path; None if it is absent, not local or unreadable."""
        if not self.is_local(path):
            return None
        try:
            status = os.lstat(path)
            has_acl = "system.posix_acl_access" in os.listxattr(path, follow_symlinks=False)
        except OSError:
            return None
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
        found = self._read(path, path) if kind == "directory" else DirectoryContents()
        key = file_key(path, status) if kind == "file" else found.key
        mode = stat.S_IMODE(status.st_mode)
        return HostPath(kind, status.st_uid, status.st_gid, mode, has_acl, found.entries, found.database, key)

    def database_below(self, path: str, title: str) -> str:
        """Return the kind of the database in a container's directory; empty if no database is found.

        Args:
            path: The directory.
            title: The name of the directory, for messages.
        """
        return "" if Path(path).is_symlink() else self._read(path, title).database

    def _read(self, top: str, title: str) -> DirectoryContents:
        found = read_directory(top, self._network, lambda: self.is_late)
        if not found.is_complete and not self.is_late:
            self.truncated.append(title)
        return found


def _is_remote(mount: HostMount) -> bool:
    return medium_of(mount.file_system) not in (StorageMedium.LOCAL, StorageMedium.MEMORY)
