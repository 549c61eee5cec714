"""Runs a Python module as a child process, which receives commands as JSON lines on its standard input."""

import asyncio
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, Self

from tests.support.files import REPOSITORY

_END_WITHIN = 5.0
_PIECE = 65536


class Child:
    """A child process that runs until the `with` block ends. If the parent process exits first, the child also exits.

    Args:
        module: The name of the Python module to run.
        arguments: The command-line arguments of the module.
    """

    def __init__(self, module: str, *arguments: object) -> None:
        self._command = [sys.executable, "-m", module, *map(str, arguments)]
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, start_new_session=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            process.wait(_END_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        """The process ID of the child.

        Raises:
            ChildProcessError: The child is not running.
        """
        return self._running().pid

    def ask(self, do: str, within: float = 20.0, **order: object) -> dict[str, Any]:
        """Send a command to the child, and wait for the response.

        Args:
            do: The name of the command.
            within: Timeout in seconds.
            order: Additional fields of the command.

        Raises:
            TimeoutError: The child does not respond in time.
            ChildProcessError: The child has exited.
        """
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise ChildProcessError(f"{self._command} has no pipes")
        process.stdin.write(json.dumps({"do": do, **order}).encode() + b"\n")
        process.stdin.flush()
        deadline = time.monotonic() + within
        while b"\n" not in self._buffer:
            if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"{self._command[2]} does not answer {do!r} within {within:g} s")
            data = os.read(process.stdout.fileno(), _PIECE)
            if not data:
                raise ChildProcessError(f"{self._command[2]} ended with exit code {process.wait(_END_WITHIN)}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return dict(json.loads(line))

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ChildProcessError(f"{self._command[2]} is not running")
        return self._process


class Orders:
    """Reads the commands of the parent process from standard input. The child process uses this class."""

    def __init__(self) -> None:
        self._buffer = b""

    def read(self) -> list[dict[str, Any]] | None:
        """Read once from standard input. Return the commands that are complete, or None after end-of-file."""
        data = os.read(0, _PIECE)
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        """Yield each command when it arrives, until end-of-file."""
        loop = asyncio.get_running_loop()
        came: asyncio.Queue[list[dict[str, Any]] | None] = asyncio.Queue()
        loop.add_reader(0, lambda: came.put_nowait(self.read()))
        try:
            while (orders := await came.get()) is not None:
                for order in orders:
                    yield order
        finally:
            loop.remove_reader(0)


def answer(**said: object) -> None:
    """Write the response to the last command to standard output."""
    print(json.dumps(said), flush=True)
