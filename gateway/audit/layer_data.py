"""Finds the directory in which a container has written data to its layer. Does no I/O."""

import posixpath
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gateway.audit import database_files
from gateway.audit.storage_behind_mount import is_below
from gateway.audit.storage_locations import VOLATILE

_SET_BY_ENGINE = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab", "/.dockerenv")


class LayerData(NamedTuple):
    """The data that a container has written to its layer.

    Args:
        database: The kind of database whose files are in the layer; empty if there is none.
        directory: The directory of the database. If there is no database, the deepest directory that contains more
            than half of the data; `/` if only `/` contains that much. Empty if the layer contains no data.
    """

    database: str
    directory: str


def find(changes: Mapping[str, int], mounted: Iterable[str]) -> LayerData:
    """Return the data in a layer. Ignore temporary files, and files that the engine creates.

    Args:
        changes: Paths that the container added or changed in its layer, with their sizes in bytes.
        mounted: The mount points in the container. Files below them are not in the layer.
    """
    ignored = (*mounted, *VOLATILE, *_SET_BY_ENGINE)
    written = {
        name: size for name, size in changes.items() if not any(is_below(name, directory) for directory in ignored)
    }
    database, directory = database_files.in_files(written)
    return LayerData(database, directory if database else _main_directory(written))


def _main_directory(written: Mapping[str, int]) -> str:
    """Return the deepest directory that contains more than half of the bytes of the files in `written`."""
    if not written:
        return ""
    sizes: dict[str, int] = {}
    for name, size in written.items():
        directory = posixpath.dirname(name)
        while directory != "/":
            sizes[directory] = sizes.get(directory, 0) + size
            directory = posixpath.dirname(directory)
    half = sum(written.values()) / 2
    return max((each for each, size in sizes.items() if size > half), key=lambda each: each.count("/"), default="/")
