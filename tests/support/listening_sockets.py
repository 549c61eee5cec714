"""Finds out whether a native engine accepts the clients of a listening socket."""

import contextlib
from pathlib import Path

_LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""


def engine_accepts(pid: int, port: int) -> bool:
    """Return whether an engine of a process has a duplicate of the socket that listens on `port`."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = (row[9] for row in rows if row[3] == _LISTEN and row[1] == f"0100007F:{port:04X}")
    links = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(each.readlink()))
    return links.count(f"socket:[{inode}]") > 1
