"""A helper program: kills the gateway's child process groups when the gateway exits.

Usage: `python group_watchdog.py`

The kernel kills a child process when its parent exits (PR_SET_PDEATHSIG in prctl(2)), but not the processes that the
child has started. Therefore this program reads the IDs of process groups from its standard input: `+ID` adds a group,
`-ID` removes it. At the end of the input, it kills the groups that are left. The program imports only the standard
library, so that it starts quickly.
"""

import os
import signal
import sys
from collections.abc import Iterable


def main(lines: Iterable[bytes]) -> None:
    """Read the groups, and kill those that are left at the end.

    Args:
        lines: The lines of the input.
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
    # Service managers send this signal to all processes of a service. The gateway then still needs its groups.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    main(sys.stdin.buffer)
