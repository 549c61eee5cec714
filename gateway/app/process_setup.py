"""Configures the process: file descriptor limit, garbage collector, thread switching, and the thread pool."""

import asyncio
import ctypes
import gc
import resource
import sys
from concurrent.futures import ThreadPoolExecutor

_FILE_THREADS = 16
"""Number of threads that read files. Reads are short, but a file system that hangs can block several threads."""
_SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread must release the GIL to a waiting thread. While a thread renders metrics, the event
loop can wait this long after each of its system calls. Python's default is 5 ms."""
_GC_THRESHOLDS = (50_000, 20, 100)
"""Thresholds of the garbage collector. They are higher than the defaults, because a full collection stops the event
loop for tens of milliseconds."""


class _ExecutorWithoutShutdownWait(ThreadPoolExecutor):
    """A thread pool that does not wait for its threads at shutdown, because file system calls can hang forever."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more work, and return without waiting for the threads."""
        del wait, cancel_futures
        super().shutdown(wait=False, cancel_futures=True)


_PR_SET_IO_FLUSHER = 57


def set_io_flusher() -> bool:
    """Mark this process as an I/O flusher (prctl(2), PR_SET_IO_FLUSHER).

    When memory is short, the kernel makes processes wait until it has written dirty pages. The kernel writes the
    dirty pages of NFS mounts through this process. If this process waited too, the kernel could not write these
    pages: a deadlock. With the mark, this process does not wait.

    Returns:
        Whether the kernel accepted the flag. The kernel requires CAP_SYS_RESOURCE.
    """
    return bool(ctypes.CDLL(None).prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0)


def prepare_process() -> None:
    """Set the file descriptor limit and the thread switch interval, and enable the garbage collector.

    The garbage collector then ignores all objects that exist now. Call this function once, after all imports.
    """
    # Each client needs two descriptors, so the usual soft limit of 1024 is too low. That limit exists for programs
    # that use select(2).
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(_SWITCH_INTERVAL)
    # Do not collect garbage before `gc.freeze()`. With one tunnel and one backend, a collection takes a tenth of the
    # startup time, and releases less than 1 MB.
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()


def prepare_loop() -> None:
    """Set the default executor of the running event loop. Call this function once per event loop."""
    executor = _ExecutorWithoutShutdownWait(_FILE_THREADS, thread_name_prefix="files")
    asyncio.get_running_loop().set_default_executor(executor)
