"""How this process and its workers set the interpreter and the loop up."""

import asyncio
import ctypes
import gc
import resource
import sys
from concurrent.futures import ThreadPoolExecutor

_FILE_THREADS = 16
"""For files and keys: they are quick, but for a file system that hangs."""
_SWITCH_INTERVAL = 0.0005
"""Seconds that a thread may hold the interpreter: at the default of 5 ms, a scrape that renders in its own thread
would delay every system call of the loop by as much."""
_GC_THRESHOLDS = (50_000, 20, 100)
"""Rarer than Python's defaults: a full collection stops the loop for tens of milliseconds."""


class _Unwaited(ThreadPoolExecutor):
    """An executor that nobody waits for when the loop ends: a file system that hangs must not hold up a stop."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work."""
        del wait, cancel_futures
        super().shutdown(wait=False, cancel_futures=True)


_PR_SET_IO_FLUSHER = 57


def become_io_flusher() -> bool:
    """Tell the kernel that writing back to NFS may need us, so that our own memory never waits for it (prctl(2)).

    Says whether it took it: that needs CAP_SYS_RESOURCE.
    """
    return bool(ctypes.CDLL(None).prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0)


def prepare_process() -> None:
    """Once, when everything is imported and nothing runs yet."""
    # Two descriptors a client: the soft limit of 1024 is for programs that use select(2).
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def prepare_loop() -> None:
    """Once, inside the loop."""
    executor = _Unwaited(_FILE_THREADS, thread_name_prefix="files")
    asyncio.get_running_loop().set_default_executor(executor)
