"""Runs a command that ends with its parent, even when that is killed: `python leash.py PARENT COMMAND…`.

A parent cannot ask for this on a child's behalf, and a function between fork and exec is not safe beside threads; so
this small program stands between them (prctl(2), PR_SET_PDEATHSIG). Standard library only: it starts at once.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Become `command`, unless `parent` is gone already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
