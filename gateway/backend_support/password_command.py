"""Runs an external program that prints a password, for example a short-lived token of a cloud provider."""

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from gateway.errors import FailureReason, GatewayError, TargetPathError, TunnelError
from gateway.processes.child_process import ChildProcess, describe_exit
from gateway.processes.executable_search import ExecutableSearchTimeoutError, look_up_program
from gateway.processes.pipes import open_pipe, read_pipe

log = logging.getLogger(__name__)

_MAX_OUTPUT = 64 * 1024
"""Maximum size of a program's standard output, in bytes. A cloud provider's token has about 1000 bytes."""
_MAX_STDERR_LINES = 8
"""Number of lines at the end of a program's standard error that the gateway logs."""
_KILL_TIMEOUT = 3.0
"""Seconds to wait for the exit of a process after SIGKILL."""


async def run_password_command(command: Sequence[str], inherited: Sequence[str], timeout: float) -> str:  # noqa: ASYNC109
    """Run a program without a shell, and return the line that it prints.

    The program runs in a separate process group. The gateway kills the group when the program has exited, at the time
    limit, and on cancellation.
    If the gateway crashes, the kernel kills the program (PR_SET_PDEATHSIG), but not its child processes.

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
    stdout, stdout_of_program = open_pipe()
    os.set_blocking(stdout, False)
    output, code = b"", None
    failure = f"{name} did not exit within {timeout:g} s"
    try:
        try:
            child = await ChildProcess.start(
                [found.name, *command[1:]], "", stderr.append, variables, stdout=stdout_of_program, file=found.file
            )
        except TunnelError as error:
            raise _error(error.detail) from error
        finally:
            os.close(stdout_of_program)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    output = await _read_output(stdout)
                    if len(output) <= _MAX_OUTPUT:
                        code = await child.wait()
        finally:
            # Child processes of the program can outlive it. Kill them, too.
            child.kill()
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


def _parse_output(output: bytes, name: str) -> str:
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


def _error(why: str) -> TargetPathError:
    return TargetPathError(FailureReason.AUTH, f"check.password_command: {why}")


async def _read_output(pipe: int) -> bytes:
    output = bytearray()
    while len(output) <= _MAX_OUTPUT and (part := await read_pipe(pipe, _MAX_OUTPUT)):
        output += part
    return bytes(output)
