"""Reads from `/proc` which sockets the processes of one session (setsid(2)) have open."""

import contextlib
import re
from pathlib import Path

_PROC = Path("/proc")
_SOCKET = re.compile(r"socket:\[(\d+)\]")
"""Matches a link in `/proc/PID/fd` that refers to a socket, and captures the socket's inode (proc_pid_fd(5))."""


def session_sockets(session: int) -> set[int] | None:
    """Return the inodes of the sockets that the processes of a session have open. The call blocks.

    Args:
        session: The ID of the session, which is the process ID of its leader (setsid(2)).

    Returns:
        The inodes; None if the gateway is not permitted to read an entry of a process in `/proc`.
    """
    found: set[int] = set()
    for process in _PROC.glob("[0-9]*"):
        try:
            if _session_of(process) == session:
                found |= _sockets_of(process)
        except PermissionError:
            return None
        except OSError:  # the process has exited
            continue
    return found


def _sockets_of(process: Path) -> set[int]:
    found = set()
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the process has closed the descriptor
            if match := _SOCKET.fullmatch(str(descriptor.readlink())):
                found.add(int(match[1]))
    return found


def _session_of(process: Path) -> int:
    """Return the session ID of a process. It is the fourth field after the name in proc_pid_stat(5)."""
    return int((process / "stat").read_text(errors="replace").rpartition(") ")[2].split()[3])
