"""Runs a blocking function in a daemon thread, which does not delay the exit of the process."""

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def run_in_daemon_thread(function: Callable[[], _T], name: str) -> "Future[_T]":
    """Start a thread that calls `function`.

    Args:
        function: The function. It can block for any time, for example on a file system or a name server.
        name: The name of the thread.

    Returns:
        A future with the result of the function, or with its exception. The future cannot be cancelled.

    Raises:
        OSError: No thread can be started (EAGAIN).
    """
    found: Future[_T] = Future()
    found.set_running_or_notify_cancel()  # prevent cancellation: `set_result` fails on a cancelled future

    def run() -> None:
        try:
            found.set_result(function())
        except BaseException as error:  # noqa: BLE001 - the future passes the error to the caller
            found.set_exception(error)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
    return found
