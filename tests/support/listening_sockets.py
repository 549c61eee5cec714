"""Detects whether the native engine accepts the clients of a listening socket."""

import contextlib
from pathlib import Path

_LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""


def engine_accepts(pid: int, port: int) -> bool:
    """Return whether the native engine in process `pid` accepts the clients on 127.0.0.1:`port`.

    The native engine duplicates the file descriptor of the listening socket (dup(2)). The process then has more than
    one file descriptor of this socket.
    """
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = (row[9] for row in rows if row[3] == _LISTEN and row[1] == f"0100007F:{port:04X}")
    links = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(each.readlink()))
    return links.count(f"socket:[{inode}]") > 1
