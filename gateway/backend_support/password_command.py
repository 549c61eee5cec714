"""Runs an external program that prints a password, for example a short-lived token of a cloud provider."""

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gateway.errors import FailureReason, GatewayError, TargetPathError, TunnelError
from gateway.processes.child_process import ChildProcess, describe_exit, starting
from gateway.processes.executable_search import ExecutableSearchTimeoutError, look_up_program
from gateway.processes.pipes import open_pipe, read_pipe

log = logging.getLogger(__name__)

_MAX_OUTPUT = 64 * 1024
"""Maximum size of a program's standard output, in bytes. A cloud provider's token has about 1000 bytes."""
_MAX_STDERR_LINES = 8
"""Number of lines at the end of a program's standard error that the gateway logs."""
_OUTPUT_TIMEOUT = 0.5
"""Seconds to wait for the end of the standard output after the program has exited."""
_KILL_TIMEOUT = 3.0
"""Seconds to wait for the exit of a process after SIGKILL."""


async def run_password_command(command: Sequence[str], inherited: Sequence[str], timeout: float) -> str:  # noqa: ASYNC109
    """Run a program without a shell, and return the line that it prints.

    The program runs in a separate process group. The gateway kills the group when the program has exited, at the time
    limit, and on cancellation. If the gateway crashes, the kernel kills the program (PR_SET_PDEATHSIG), but not its
    child processes.

    If the program fails, its standard error is logged. Its standard output is never logged.

    Args:
        command: The program and its arguments.
        inherited: Names of environment variables to pass to the program, in addition to PATH, HOME and the locale.
        timeout: Time limit in seconds.

    Raises:
        TargetPathError: The program failed. The message contains none of the program's output.
    """
    name = Path(command[0]).name
    try:
        found = await look_up_program(command, timeout)
    except (GatewayError, ExecutableSearchTimeoutError, OSError) as error:
        raise _error(str(error)) from error
    variables = {each: os.environ[each] for each in ("HOME", *inherited) if each in os.environ}
    stderr: deque[str] = deque(maxlen=_MAX_STDERR_LINES)
    output, code = bytearray(), None
    failure = f"{name} did not exit within {timeout:g} s"
    try:
        child, stdout = await _start([found.name, *command[1:]], found.file, variables, stderr.append)
    except TunnelError as error:
        raise _error(error.detail, error.reason) from error
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                code = await _wait_and_read(child, stdout, output)
    finally:
        # Child processes of the program can outlive it. Kill them, too.
        child.kill()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KILL_TIMEOUT):
                    await child.stop()
        finally:
            os.close(stdout)
    if len(output) > _MAX_OUTPUT:
        failure = f"{name} printed more than {_MAX_OUTPUT >> 10} KiB"
    elif code is not None:
        failure = f"{name} ended with {describe_exit(code)}" if code else ""
    if failure:
        log.warning("password_command failed", extra={"detail": failure, "stderr": " ".join(stderr)})
        raise _error(failure)
    return _parse_output(output, name)


async def _start(
    command: Sequence[str], file: str, variables: Mapping[str, str], on_error_line: Callable[[str], None]
) -> tuple[ChildProcess, int]:
    """Start the program. Return the process, and the read end of a pipe with its standard output.

    Raises:
        TunnelError: The system cannot start another process.
    """
    with starting(command):
        stdout, stdout_of_program = open_pipe()
    try:
        os.set_blocking(stdout, False)
        child = await ChildProcess.start(command, "", on_error_line, variables, stdout=stdout_of_program, file=file)
    except BaseException:
        os.close(stdout)
        raise
    finally:
        os.close(stdout_of_program)
    return child, stdout


async def _wait_and_read(child: ChildProcess, stdout: int, output: bytearray) -> int | None:
    """Read the standard output until the program has exited. Return the exit code; None if the output is too long.

    Other processes that the program started can keep its standard output open. Therefore, after the exit, read for at
    most `_OUTPUT_TIMEOUT`.
    """
    reading = asyncio.create_task(_read_output(stdout, output))
    exiting = asyncio.create_task(child.wait())
    try:
        await asyncio.wait({reading, exiting}, return_when=asyncio.FIRST_COMPLETED)
        if len(output) > _MAX_OUTPUT:
            return None
        code = await exiting
        await asyncio.wait({reading}, timeout=_OUTPUT_TIMEOUT)
        return code
    finally:
        for task in (reading, exiting):
            task.cancel()
        await asyncio.wait({reading, exiting})


def _parse_output(output: bytes | bytearray, name: str) -> str:
    try:
        text = output.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        # Omit the original error, because it contains the program's output, which can be a secret.
        raise _error(f"{name} printed text that is not UTF-8") from None
    if not text or "\n" in text or "\0" in text:
        raise _error(
            f"{name} printed {'several lines' if text else 'nothing'}, but must print the password as one line"
        )
    return text


def _error(why: str, reason: FailureReason = FailureReason.AUTH) -> TargetPathError:
    return TargetPathError(reason, f"check.password_command: {why}")


async def _read_output(pipe: int, output: bytearray) -> None:
    while len(output) <= _MAX_OUTPUT and (part := await read_pipe(pipe, _MAX_OUTPUT)):
        output += part
