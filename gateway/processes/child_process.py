"""Starts child processes that exit when the gateway exits, and passes their output to a callback."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from gateway.errors import FailureReason, TunnelError
from gateway.processes import pdeathsig_exec
from gateway.processes.child_environment import minimal_environment
from gateway.processes.child_exit import wait_exit
from gateway.processes.permission_checked_program import find_program
from gateway.processes.pipes import open_pipe, read_pipe
from gateway.text_sanitizer import one_line

_TERMINATE_TIMEOUT = 3.0
_OUTPUT_TIMEOUT = 0.5
"""Seconds to wait for the end of the output after the process has exited. The wait needs a limit, because another
process can hold the pipe open."""
_EXIT_TIMEOUT = 10.0
"""Seconds to wait for the exit of a process that has begun to exit. The wait needs a limit, because the process can
block in the kernel, for example in a file system that does not respond."""
_CHUNK = 64 * 1024
_MAX_LINE = 1000
"""Maximum length of an output line, in characters. Longer lines are truncated."""
_MAX_PENDING = 4 * _MAX_LINE
"""Maximum length of an output line, in bytes. A character has at most 4 bytes. The rest of a longer line is
dropped."""
_PF_EXITING = 0x4
"""Flag of a process that is exiting (linux/sched.h). It is set in the field `flags` of proc_pid_stat(5)."""
_SIGKILL_MASK = 1 << (signal.SIGKILL - 1)
"""The bit of SIGKILL in the signal masks of proc_pid_status(5)."""
_MAX_LINES = 200
"""Maximum number of lines to handle after each read of the output. If there are more lines, only the last ones are
handled. Without this limit, a program that prints megabytes would delay the event loop."""


class ChildProcess:
    """A child process that leads its own process group.

    The process is not reaped before `kill` or `stop` has killed the group. Until then, no other process can get the
    process ID, so signals never reach an unrelated process.

    Args:
        process: The process. The owner of the `ChildProcess` must call `stop` or `kill`, even after the process has
            exited.
        output: The read end of the pipe that receives the output of the process. `ChildProcess` closes it.
        on_line: Called with each line of output.
    """

    def __init__(self, process: subprocess.Popen[bytes], output: int, on_line: Callable[[str], None]) -> None:
        self.last_line = ""
        """The latest non-empty line of output; empty if there is none."""
        self.exit_code: int | None = None
        """The exit code, or the negative number of the signal that killed the process; None while it runs."""
        self.was_stopped = False
        """Whether `kill` or `stop` was called before the gateway detected the exit of the process."""
        self._process = process
        self._was_killed = False
        """Whether `kill` has sent SIGKILL to the process group."""
        self._on_line = on_line
        self._exit = asyncio.create_task(self._wait_exit())
        self._reader = asyncio.create_task(self._read_output(output))
        self._reader.add_done_callback(lambda _: os.close(output))

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        package: str,
        on_line: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        privileges: str = "all",
        stdin: int = asyncio.subprocess.DEVNULL,
        stdout: int = asyncio.subprocess.STDOUT,
        file: str | None = None,
    ) -> "ChildProcess":
        """Start a program.

        Args:
            command: The program and its arguments.
            package: The Linux package that contains the program, for the error message; empty if it is not known.
            on_line: Called with each line of output.
            environment: Variables to add to `minimal_environment`.
            pass_fds: File descriptors that the program inherits.
            privileges: The PRIVILEGES argument of `pdeathsig_exec.py`.
            stdin: The file descriptor of the standard input. The caller must close the descriptor.
            stdout: The file descriptor of the standard output. The caller must close the descriptor. If `stdout` is
                set, `on_line` receives only the standard error. By default, `on_line` receives the standard output
                and the standard error.
            file: The path of the file to execute (`PermissionCheckedProgram.file`). By default, the method searches
                PATH.

        Raises:
            TunnelError: The program is not installed, or the system cannot start another process.
        """
        program = command[0] if file is not None else find_program(command[0])
        if program is None:
            fix = f": install the package {package}" if package else ": install it"
            raise TunnelError(FailureReason.PROTOCOL, f"{command[0]} is not installed{fix}", fatal=True)
        with starting(command):
            output, written = open_pipe()
            os.set_blocking(output, False)
            try:
                process = subprocess.Popen(  # noqa: ASYNC220, S603 - `Popen` does not wait, and uses no shell
                    [sys.executable, "-I", "-S", pdeathsig_exec.__file__, str(os.getpid()), privileges,
                     file or program, program, *command[1:]],
                    stdin=stdin,
                    stdout=written if stdout == asyncio.subprocess.STDOUT else stdout,
                    stderr=written,
                    env={**minimal_environment(), **(environment or {})},
                    cwd="/",
                    pass_fds=pass_fds,
                    start_new_session=True,  # Ctrl-C must reach only the gateway, which stops its child processes
                )  # fmt: skip
            except BaseException:
                os.close(output)
                raise
            finally:
                os.close(written)
        return cls(process, output, on_line)

    @property
    def pid(self) -> int:
        """The process ID, which is also the ID of the process group."""
        return self._process.pid

    async def _read_output(self, output: int) -> None:
        pending = b""
        while chunk := await read_pipe(output, _CHUNK):
            *lines, pending = (pending + chunk).split(b"\n")
            pending = pending[:_MAX_PENDING]
            for line in lines[-_MAX_LINES:]:
                self._handle_line(line)
            await asyncio.sleep(0)  # let other tasks run, even if the pipe always contains data
        if pending:
            self._handle_line(pending)

    def _handle_line(self, line: bytes) -> None:
        text = one_line(line[:_MAX_PENDING].decode(errors="replace"), _MAX_LINE)
        self.last_line = text or self.last_line
        self._on_line(text)

    async def wait(self) -> int:
        """Wait until the process has exited, and return its exit code; see `exit_code`.

        Also wait until the output has been read, but at most `_OUTPUT_TIMEOUT` after the exit.
        """
        code = await asyncio.shield(self._exit)
        await asyncio.wait({self._reader}, timeout=_OUTPUT_TIMEOUT)
        return code

    async def exits_within(self, seconds: float) -> bool:
        """Return whether the process has exited. Wait at most `seconds` for the exit.

        If the process has begun to exit by then, wait up to `_EXIT_TIMEOUT` seconds longer. If this method returns
        False and `is_exiting` is true, the exit is blocked in the kernel.
        """
        await asyncio.wait({self._exit}, timeout=seconds)
        if self.exit_code is None and self.is_exiting:
            await asyncio.wait({self._exit}, timeout=_EXIT_TIMEOUT)
        if self.exit_code is None:
            return False
        await self.wait()
        return True

    @property
    def is_exiting(self) -> bool:
        """Whether the process has begun to exit, or has exited. On a busy machine, the exit can take a long time."""
        folder = Path("/proc", str(self.pid))
        try:
            # Read the pending signals first: a process that handles SIGKILL in the meantime is exiting.
            return has_begun_to_exit(*((folder / name).read_text(errors="replace") for name in ("status", "stat")))
        except (FileNotFoundError, ProcessLookupError):
            return True
        except OSError:
            return False

    def kill(self) -> None:
        """Send SIGKILL to each process of the process group. Do not wait until the processes have exited."""
        self.was_stopped |= self.exit_code is None
        self._signal(signal.SIGKILL)
        self._was_killed = True
        self._reap()

    async def stop(self) -> None:
        """Send SIGTERM to the process group. When the program has exited, or after 3 seconds, kill the group.

        If this method is cancelled, kill the group immediately.
        """
        try:
            if self.exit_code is None:
                self.was_stopped = True
                self._signal(signal.SIGTERM)
                await asyncio.wait({self._exit}, timeout=_TERMINATE_TIMEOUT)
        finally:
            # Other processes that the program started in its group may still be running.
            self.kill()
            self._reader.cancel()
        await asyncio.wait({self._exit, self._reader})

    async def _wait_exit(self) -> int:
        self.exit_code = code = await wait_exit(self.pid)
        self._reap()
        return code

    def _reap(self) -> None:
        if self._was_killed and self.exit_code is not None:
            self._process.wait()

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


@contextlib.contextmanager
def starting(command: Sequence[str]) -> Iterator[None]:
    """Convert an `OSError` to a `TunnelError` in a `with` block that starts a program.

    Args:
        command: The program and its arguments.

    Raises:
        TunnelError: The block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise TunnelError(
            FailureReason.RESET, f"{_name(command)} cannot be started: {error.strerror or error}"
        ) from error


def has_begun_to_exit(status: str, stat: str) -> bool:
    """Return whether a process has begun to exit, or will exit when it next runs, because SIGKILL is pending.

    Args:
        status: The contents of proc_pid_status(5).
        stat: The contents of proc_pid_stat(5).
    """
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    state, *_, flags = stat.rpartition(") ")[2].split()[:7]
    return any(mask & _SIGKILL_MASK for mask in masks) or state in ("Z", "X") or bool(int(flags) & _PF_EXITING)


def describe_exit(code: int) -> str:
    """Return a description of an exit code, such as `exit code 1` or `signal 9`.

    Args:
        code: The exit code, or the negative number of a signal.
    """
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


def exit_error(command: Sequence[str], child: ChildProcess, login_exit_codes: Sequence[int]) -> TunnelError:
    """Return the error to report for a tunnel whose program has exited.

    Args:
        command: The program and its arguments.
        child: The process, which has exited.
        login_exit_codes: Exit codes that mean that the login of the program failed. With these codes, the error is
            fatal.
    """
    code = child.exit_code or 0
    is_login = code in login_exit_codes
    output = f": {child.last_line}" if child.last_line else ""
    detail = f"{_name(command)} ended with {describe_exit(code)}{output}"
    return TunnelError(FailureReason.AUTH if is_login else FailureReason.RESET, detail, fatal=is_login)


def _name(command: Sequence[str]) -> str:
    return command[0].rpartition("/")[2]
