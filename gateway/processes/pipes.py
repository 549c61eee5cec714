"""Reads and writes pipes with the event loop.

This module replaces the pipes of asyncio's subprocesses. With those pipes, asyncio reports the exit of a process only
after all processes that inherited the pipes have exited.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any


def open_pipe() -> tuple[int, int]:
    """Create a pipe. Return the descriptors of its read end and its write end; child processes inherit neither."""
    return os.pipe2(os.O_CLOEXEC)


async def read_pipe(pipe: int, most: int) -> bytes:
    """Wait for data, and return the data. Return empty bytes if the write end of the pipe is closed.

    Args:
        pipe: The read end, non-blocking.
        most: The maximum number of bytes to return.
    """
    while True:
        try:
            return os.read(pipe, most)
        except BlockingIOError:
            await wait_readable(pipe)


async def write_pipe(pipe: int, data: bytes | memoryview) -> None:
    """Write all of `data`.

    Args:
        pipe: The write end, non-blocking.
        data: The data.

    Raises:
        BrokenPipeError: The read end is closed.
    """
    loop = asyncio.get_running_loop()
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(pipe, left) :]
        except BlockingIOError:
            await _wait_until(pipe, loop.add_writer, loop.remove_writer)


async def wait_readable(pipe: int) -> None:
    """Wait until a pipe contains data or its write end is closed."""
    loop = asyncio.get_running_loop()
    await _wait_until(pipe, loop.add_reader, loop.remove_reader)


async def _wait_until(pipe: int, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
    ready = asyncio.get_running_loop().create_future()
    add(pipe, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(pipe)
