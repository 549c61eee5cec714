"""Waits until a child process exits, without reaping the process, so that its process ID is not reused."""

import asyncio
import os

from gateway.processes.pipes import wait_readable

_POLL_INTERVAL = 0.05
"""Seconds between two calls of waitid(2) if the kernel or the seccomp profile does not permit pidfd_open(2)."""


async def wait_exit(pid: int) -> int:
    """Wait until a child process has exited, without reaping it, so that its ID is not reused.

    Args:
        pid: The process ID.

    Returns:
        The exit code, or the negative number of the signal that killed the process.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        pidfd = -1
    try:
        while (result := _poll(pid)) is None:
            await (wait_readable(pidfd) if pidfd >= 0 else asyncio.sleep(_POLL_INTERVAL))
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    return result


def _poll(pid: int) -> int | None:
    result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
