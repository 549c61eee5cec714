"""Combines standard input and output of a child process into one stream that supports half-close.

The child process gets two pipes, like a ProxyCommand of OpenSSH (sshconnect.c, ssh_proxy_connect). With a single
socket for both directions, the program could not close its output while it still reads its input.
"""

import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from gateway.processes.child_process import ChildProcess, describe_exit, starting
from gateway.processes.pipes import open_pipe, read_pipe, wait_readable, write_pipe
from gateway.processes.tunnel_processes import TunnelProcesses

_CHUNK = 64 * 1024
_WRITE_CHUNK = 16 * 1024
EXIT_DELAY = 0.5
"""Seconds to wait for the exit code of a program that has failed. The exit code explains the failure, but is
available only after the kernel has closed the pipes of the process."""
_OUTPUT_END_DELAY = 2.0
"""Seconds to wait for the exit of the program after the end of its output. The exit code shows whether the output is
complete. If the program continues to run, its output counts as complete."""
_BOTH_ENDS_DELAY = 5.0
"""Seconds to wait for the exit of the program after both its output and its input have ended. The time is longer than
`_OUTPUT_END_DELAY`, because a program without input and output is expected to exit."""


class StdioStream:
    """A stream over the standard input and output of a child process. Reads and writes can be concurrent.

    Args:
        child: The child process.
        command: The program and its arguments.
        output: The read end of the pipe from the process's standard output, non-blocking. The stream owns it.
        input: The write end of the pipe to the process's standard input, non-blocking. The stream owns it.
        end_later: A function that stops a process if it does not exit in time. `close` calls it with `child`.
    """

    supports_half_close = True

    def __init__(
        self,
        child: ChildProcess,
        command: Sequence[str],
        output: int,
        input: int,  # noqa: A002 - the usual name of this stream
        end_later: Callable[[ChildProcess], None],
    ) -> None:
        self.child = child
        self.command = command
        self.received = 0
        """Number of bytes read from the standard output of the process."""
        self._last_received = time.monotonic()
        self._output = output
        self._input = input
        self._end_later = end_later
        self._writing = False
        self._written = 0
        self._read = 0
        """Number of bytes that the process had read when `last_progress` was last called."""
        self._last_read = self._last_received

    @classmethod
    async def start(
        cls,
        children: TunnelProcesses,
        command: Sequence[str],
        file: str,
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> Self:
        """Start a program.

        Args:
            children: Owns the child process.
            command: The name of the program (`PermissionCheckedProgram.name`), and its arguments.
            file: The file to execute (`PermissionCheckedProgram.file`).
            environment: Variables to add to `minimal_environment`.
            on_line: Called with each line that the program prints to its standard error.

        Raises:
            TunnelError: The system cannot create the pipes, or cannot start another process.
        """
        pipes: list[int] = []
        try:
            with starting(command):
                for _ in range(2):
                    pipes += open_pipe()
            stdin, to_child, from_child, stdout = pipes
            os.set_blocking(to_child, False)
            os.set_blocking(from_child, False)
            child = await children.start(command, file, environment, on_line, stdin, stdout)
        except BaseException:
            for each in pipes:
                os.close(each)
            raise
        os.close(stdin)
        os.close(stdout)
        return cls(child, command, from_child, to_child, children.end_later)

    def limit_unsent(self) -> None:
        """Do nothing, because the buffer of a pipe is small and needs no limit of unsent data."""

    @property
    def was_reset(self) -> bool:
        """Whether the process exited before it read all data."""
        return self.child.exit_code is not None and self.unread > 0

    @property
    def unread(self) -> int:
        """Number of bytes in the input pipe that the process has not read yet (pipe(7), FIONREAD).

        If a call of `write` is not complete, the number is at least 1.
        """
        return _buffered(self._input) or int(self._writing)

    def last_progress(self, now: float) -> float:
        """Return the monotonic time at which the process last made progress, that is, printed or read data.

        Args:
            now: The current monotonic time, in seconds.
        """
        read = self._written - _buffered(self._input)
        if read > self._read:
            self._read, self._last_read = read, now
        return max(self._last_received, self._last_read)

    @property
    def accepts_input(self) -> bool:
        """Whether the input of the process is still open."""
        return self._input >= 0

    @property
    def has_output(self) -> bool:
        """Whether the process has printed data that has not been read yet."""
        return _buffered(self._output) > 0

    async def wait_readable(self) -> None:
        """Wait until the process has printed data or closed its output."""
        await wait_readable(self._output)

    async def read(self) -> bytes:
        """Wait for data.

        Returns:
            The data; empty if the process has closed its output without a failure.

        Raises:
            ConnectionResetError: The exit code of the process is not 0, or its exit is blocked in the kernel.
        """
        data = await read_pipe(self._output, _CHUNK)
        if data:
            self.received += len(data)
            self._last_received = time.monotonic()
        elif await self._exits_after_end():
            if self.child.exit_code:
                raise ConnectionResetError(f"the program ended with {describe_exit(self.child.exit_code)}")
        elif self.child.is_exiting:
            raise ConnectionResetError("the program has not exited in time")
        return data

    async def _exits_after_end(self) -> bool:
        return await self.child.exits_within(_OUTPUT_END_DELAY if self.accepts_input else _BOTH_ENDS_DELAY)

    async def write(self, data: bytes) -> None:
        """Write all of `data`.

        Raises:
            BrokenPipeError: The process has closed its input.
        """
        self._writing = True
        view = memoryview(data)
        for start in range(0, len(view), _WRITE_CHUNK):
            chunk = view[start : start + _WRITE_CHUNK]
            await write_pipe(self._input, chunk)
            self._written += len(chunk)
        self._writing = False

    async def end(self) -> None:
        """Close the input of the process. The process can still write its output."""
        self._close_input()

    def close(self) -> None:
        """Close the pipes. Stop the process if it does not exit in time."""
        self._close_pipes()
        self._end_later(self.child)

    def abort(self) -> None:
        """Kill the process, and close the pipes."""
        self.child.kill()
        self._close_pipes()

    def _close_pipes(self) -> None:
        self._close_input()
        if self._output >= 0:
            os.close(self._output)
            self._output = -1

    def _close_input(self) -> None:
        if self._input >= 0:
            os.close(self._input)
            self._input = -1


def _buffered(pipe: int) -> int:
    """Return the number of bytes in a pipe; 0 if the pipe is closed."""
    if pipe < 0:
        return 0
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])
