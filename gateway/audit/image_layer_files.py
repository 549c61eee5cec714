"""Reads the files of an image from its layers, if the engine stores the layers in directories on this host."""

import itertools
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gateway.audit.directory_contents import read_start
from gateway.audit.engine_host_files import EngineHostFiles
from gateway.audit.snapshot_model import ContainerProcessUser

_LARGEST_TABLE = 256 * 1024
"""The maximum number of bytes to read from /etc/passwd or /etc/group of an image."""
_MOST_CHANGES = 5000


def image_names(host: EngineHostFiles, layers: Iterable[str], path: str) -> set[str] | None:
    """Return the names of the files in a directory of an image; None if the layers cannot be read.

    Args:
        host: The files of the host.
        layers: Directories of the layers, uppermost first.
        path: The directory inside the image.
    """
    found: set[str] = set()
    removed: set[str] = set()
    for layer in layers:
        if not os.access(layer, os.R_OK | os.X_OK) or not host.is_local(layer):
            return None
        directory = _directory(host, layer, path)
        try:
            entries = list(os.scandir(directory)) if directory is not None else []
        except OSError:
            continue
        for entry in entries:
            if _is_whiteout(entry):
                removed.add(entry.name)
            elif entry.name not in removed:
                found.add(entry.name)
    return found


def changes(host: EngineHostFiles, layer: str, title: str) -> dict[str, int] | None:
    """Return the added and changed paths in the writable layer of a container, with sizes in bytes.

    Return None if the layer cannot be read, or if the deadline of `host` passes before the whole layer is read.
    If the layer has too many paths, return some of them, and add `title` to `host.truncated`.

    Args:
        host: The files of the host.
        layer: The directory of the container's writable layer.
        title: The name of the layer, for messages.
    """
    if not os.access(layer, os.R_OK | os.X_OK) or not host.is_local(layer):
        return None
    found: dict[str, int] = {}
    waiting, is_truncated = [""], False
    while waiting and len(found) < _MOST_CHANGES and not host.is_late:
        inner = waiting.pop(0)
        try:
            with os.scandir(layer + inner) as listing:
                entries = list(itertools.islice(listing, _MOST_CHANGES + 1))
        except OSError:
            continue
        is_truncated |= len(entries) > _MOST_CHANGES
        for entry in entries:
            name = f"{inner}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                waiting.append(name)
            if not _is_whiteout(entry):
                found[name] = _size(entry)
    if waiting and host.is_late:
        return None
    if waiting or is_truncated:
        host.truncated.append(title)
    return found


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else 0
    except OSError:
        return 0


def _is_whiteout(entry: "os.DirEntry[str]") -> bool:
    """Return whether an entry is a whiteout: the character device 0/0, by which overlayfs marks a removed file."""
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def user_of(
    host: EngineHostFiles, layers: Iterable[str], given: str, more_groups: Iterable[Any]
) -> ContainerProcessUser | None:
    """Return the numeric IDs of a container's user; None if the image's files do not contain the user's name.

    Args:
        host: The files of the host.
        layers: Directories of the container's layers, uppermost first.
        given: The configured user: `USER` or `USER:GROUP`, each a name or a number; empty for root.
        more_groups: Additional groups, by name or number.
    """
    name, _, group = (given or "0").partition(":")
    layers = list(layers)
    users = list(_table(host, layers, "etc/passwd"))
    groups = list(_table(host, layers, "etc/group"))
    entry = next((each for each in users if len(each) > 3 and name in (each[0], each[2]) and _is_id(each[2])), None)
    if entry is None and not _is_id(name):
        return None
    uid = int(entry[2] if entry is not None else name)
    numbers = {each[0]: each[2] for each in groups if len(each) > 2}
    wanted = [group or (entry[3] if entry is not None else "0"), *(str(each) for each in more_groups)]
    if not group and entry is not None:
        wanted += [each[2] for each in groups if len(each) > 3 and entry[0] in each[3].split(",")]
    found = [each if _is_id(each) else numbers.get(each, "") for each in wanted]
    return ContainerProcessUser(uid, frozenset(int(each) for each in found if _is_id(each)))


def _is_id(text: str) -> bool:
    return re.fullmatch("[0-9]{1,10}", text) is not None


def _table(host: EngineHostFiles, layers: list[str], name: str) -> Iterator[list[str]]:
    for layer in layers:
        directory = _directory(host, layer, posixpath.dirname(name))
        if directory is not None:
            try:
                text = read_start(posixpath.join(directory, posixpath.basename(name)), _LARGEST_TABLE)
            except OSError:
                continue
            yield from (line.split(":") for line in text.decode(errors="replace").splitlines())
            return


def _directory(host: EngineHostFiles, layer: str, path: str) -> str | None:
    """Return the path of a directory in a layer; None if it is absent, or if its path contains a symbolic link.

    Return None also if the layer is on a remote file system.
    """
    found = layer if host.is_local(layer) else None
    for part in filter(None, path.split("/")):
        if found is not None:
            inner = posixpath.join(found, part)
            found = inner if Path(inner).is_dir() and not Path(inner).is_symlink() else None
    return found
