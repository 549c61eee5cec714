"""Runs an external program that prints a password, for example a short-lived token of a cloud provider."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.errors import FailureReason, GatewayError, TargetPathError
from gateway.processes import pdeathsig_exec
from gateway.processes.child_environment import minimal_environment
from gateway.processes.child_process import describe_exit
from gateway.processes.executable_search import ExecutableSearchTimeoutError, look_up_program
from gateway.text_sanitizer import one_line

log = logging.getLogger(__name__)

_MAX_OUTPUT = 64 * 1024
"""Maximum size of a program's standard output, in bytes. A cloud provider's token has about 1000 bytes."""
_MAX_STDERR = 4096
"""Maximum number of bytes to log from a program's standard error."""
_KILL_TIMEOUT = 3.0
"""Seconds to wait for the exit of a process after SIGKILL."""
_STDERR_TIMEOUT = 0.5
"""Seconds to wait for end-of-file on the standard error after the program has exited."""


async def run_password_command(command: Sequence[str], inherited: Sequence[str], timeout: float) -> str:  # noqa: ASYNC109
    """Run a program without a shell, and return the line that it prints.

    The program runs in a separate process group. The gateway kills the group at the time limit, on cancellation, and
    when the gateway exits. If the program fails, its standard error is logged. Its standard output is never logged.

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
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", pdeathsig_exec.__file__, str(os.getpid()), "all",
        found.file, found.name, *command[1:],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=minimal_environment() | variables,
        cwd="/",
        start_new_session=True,
    )  # fmt: skip
    stderr = bytearray()
    stderr_reader = asyncio.create_task(_read_stderr(process.stderr, stderr))
    output, code = b"", None
    failure = f"{name} did not exit within {timeout:g} s"
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                output = await _read_output(process.stdout)
                if len(output) <= _MAX_OUTPUT:
                    code = await process.wait()
    finally:
        if code is None:
            await _kill_group(process)
        await asyncio.wait({stderr_reader}, timeout=_STDERR_TIMEOUT)
        stderr_reader.cancel()
        # Close the pipes. Otherwise, asyncio keeps them open until all descendants of the program have closed them.
        # asyncio has no public method that closes the pipes.
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001
    if len(output) > _MAX_OUTPUT:
        failure = f"{name} printed more than {_MAX_OUTPUT >> 10} KiB"
    elif code is not None:
        failure = f"{name} ended with {describe_exit(code)}" if code else ""
    if failure:
        log.warning(
            "password_command failed",
            extra={"detail": failure, "stderr": one_line(stderr.decode(errors="replace"))},
        )
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


async def _read_output(stream: asyncio.StreamReader | None) -> bytes:
    output = bytearray()
    while stream is not None and len(output) <= _MAX_OUTPUT and (part := await stream.read(_MAX_OUTPUT)):
        output += part
    return bytes(output)


async def _read_stderr(stream: asyncio.StreamReader | None, stderr: bytearray) -> None:
    while stream is not None and (part := await stream.read(_MAX_STDERR)):
        stderr += part[: _MAX_STDERR - len(stderr)]


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill all processes of the group, because child processes can outlive the program."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_KILL_TIMEOUT):
            await process.wait()
