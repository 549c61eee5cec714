"""A helper program that kills the process groups of the gateway's child processes when the gateway exits.

Usage: `python process_group_watchdog.py`

The kernel kills a child process when its parent exits (PR_SET_PDEATHSIG in prctl(2)), but not the processes that the
child has started. Therefore, the gateway runs this program, and writes the IDs of process groups to its standard
input: `+ID` adds a group, `-ID` removes it. When the gateway exits, the input ends, and the program kills the
remaining groups. The program imports only the standard library, so that it starts quickly.
"""

import os
import signal
import sys
from collections.abc import Iterable


def main(lines: Iterable[bytes]) -> None:
    """Read the IDs of process groups until the input ends, and then kill the groups that were not removed.

    Args:
        lines: The lines of the input: `+ID` adds a group, `-ID` removes it.
    """
    groups: set[int] = set()
    for line in lines:
        change, group = line[:1], int(line[1:])
        if change == b"+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            continue


if __name__ == "__main__":
    # Ignore SIGTERM, which service managers send to all processes of a service: the gateway needs its child processes
    # until it has drained its connections.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    main(sys.stdin.buffer)
